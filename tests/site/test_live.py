"""The live page in a real browser, opened as a file: its numbers against PyTorch's, its hands, and
that it neither asks for nor says anything.
"""

import base64
import copy
import re
import zipfile
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from tests.helpers import browser
from zfnet import Deconvnet, paper_layers
from zfnet.data.files import read_image
from zfnet.data.photographs import photograph
from zfnet.methods.probabilities import probabilities
from zfnet.models.named import load_net
from zfnet.models.published import squeezenet_file
from zfnet.site.build import NETS, build
from zfnet.site.runtime import runtime
from zfnet.store.errors import NotDownloaded

pytestmark = pytest.mark.slow
PHOTOS = ("chelsea", "coffee", "astronaut", "rocket", "china")
# a Float32Array, or bytes, as base64
PACK = """values => {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  let text = ""
  for (let i = 0; i < bytes.length; i += 8192)
    text += String.fromCharCode(...bytes.subarray(i, i + 8192))
  return btoa(text)
}"""
UNPACK = "text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0))"


def rounded(model: nn.Module) -> nn.Module:
    """The net with the weights that the page has: in half precision, in float32 where it counts."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = module.weight.data.half().float()
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page, and the nets on it: SqueezeNet where its weights are installed."""
    if browser.missing():
        pytest.skip(f"{browser.missing()}: the live page is not driven in a browser")
    try:
        runtime()
    except NotDownloaded as error:
        pytest.skip(f"{error}: the live page is not driven in a browser")
    names = NETS if squeezenet_file() else NETS[1:]
    nets = [load_net(name, device="cpu") for name in names]
    return build(nets, tmp_path_factory.mktemp("live") / "index.html"), nets


@pytest.fixture
def visit(made, chromium, report):
    """visit(width=390, …) -> the page, its first photo taken apart; whatever it says or asks for
    fails the test.
    """
    said, contexts = [], []

    def open_page(width: int = 1280, scheme: str = "light", **options):
        context = chromium.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, **options
        )
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(120_000)  # on a busy machine
        browser.watch(tab, said)
        tab.goto(made[0].path.as_uri())
        tab.evaluate("live.ready")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def numbers(tab, expression: str, shape: tuple[int, ...], kind=np.float32) -> torch.Tensor:
    """What a typed array on the page holds."""
    text = tab.evaluate(f"Promise.resolve({expression}).then({PACK})")
    found = np.frombuffer(base64.b64decode(text), kind)
    return torch.from_numpy(found.copy()).reshape(shape)


def off(found: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference, of the largest value."""
    return float((found - want).abs().max() / want.abs().max())


def projection_off(model: nn.Module, image: torch.Tensor, unit, found: torch.Tensor) -> float:
    """How far a projection is from PyTorch's in float32, or in float64 where that is nearer: of two
    values in a pool that are equal but for rounding, either may be the largest.
    """
    single = off(found, Deconvnet(model).project(image, *unit))
    if single <= 1e-5:
        return single
    exact = Deconvnet(copy.deepcopy(model).double()).project(image.double(), *unit)
    return min(single, off(found, exact))


def test_the_page_is_small_and_whole(made, tmp_path, report):
    page, nets = made
    text = page.path.read_text()
    with zipfile.ZipFile(tmp_path / "page.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(page.path, "index.html")
    packed = (tmp_path / "page.zip").stat().st_size
    report(f"live page, {len(nets)} nets: {page.size / 1e6:.1f} MB, zipped {packed / 1e6:.1f} MB")
    assert page.size < 40e6 and packed < 18e6
    assert "Permission is hereby granted" in text  # the runtime's licence
    # of what the page itself loads, nothing lies elsewhere
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "default-src 'none'" in text and "connect-src" not in text
    assert all(change < 2e-3 for change in page.rounding.values())


def test_the_pages_numbers_are_pytorchs(made, visit, report):
    """Probabilities, maps and projections of five photographs and every net on the page, given the
    same pixels.
    """
    tab = visit()
    worst, times = {"probabilities": 0.0, "maps": 0.0, "projections": 0.0}, {}
    for n, net in enumerate(made[1]):
        model = rounded(net.model)
        deconvnet = Deconvnet(model)
        for name in PHOTOS:
            fitted = ImageOps.fit(photograph(name), (net.size, net.size), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(fitted))
            image = net.images(pixels.permute(2, 0, 1)[None]).batch([0])
            packed = base64.b64encode(pixels.numpy().tobytes()).decode()
            tab.evaluate(f"text => {{ window.pixels = ({UNPACK})(text) }}", packed)
            tab.evaluate(f"window.input = live.normalised({n}, pixels)")
            assert torch.equal(numbers(tab, "input", image.shape), image)  # to the last bit
            time = f"""async () => {{ const start = performance.now()
              window.found = await live.run({n}, input)
              return performance.now() - start }}"""
            times.setdefault("guesses and maps", []).append(tab.evaluate(time))
            with torch.no_grad():
                want = probabilities(model(image))[0]
            guess = numbers(tab, "Float32Array.from(found.guess)", want.shape)
            worst["probabilities"] = max(worst["probabilities"], off(guess, want))
            for at, layer in enumerate(paper_layers(net.model).values()):
                maps = deconvnet.activations(image, layer)
                found = numbers(tab, f"found.maps[{at}]", maps.shape)
                worst["maps"] = max(worst["maps"], off(found, maps))
                order = found.flatten().argsort(descending=True)
                for place in (order[0], order[int((found > 0).sum()) // 2]):
                    channel, *unit = (int(i[0]) for i in np.unravel_index([place], maps.shape[1:]))
                    ask = f"{n}, input, found.maps, {at}, {channel}, [{unit}].flat()"
                    time = f"""async () => {{ const start = performance.now()
                      window.down = await live.project({ask})
                      return performance.now() - start }}"""
                    times.setdefault("projection", []).append(tab.evaluate(time))
                    found_pixels = numbers(tab, "down", image.shape)
                    worst["projections"] = max(
                        worst["projections"],
                        projection_off(model, image, (layer, channel, tuple(unit)), found_pixels),
                    )
    for what, value in worst.items():
        report(f"live page, {what} against PyTorch: {value:.1e} of the largest")
    for what, each in times.items():
        report(f"live page, {what}: {median(each):.0f} ms (at most {max(each):.0f} ms)")
    assert max(worst.values()) <= 1e-4


def rows_first(picture: Image.Image, side: int) -> Image.Image:
    """The largest centred square, by two passes of Pillow's: which comes first is left to its
    version otherwise.
    """
    (width, height), square = picture.size, min(picture.size)
    left, top = (width - square) / 2, (height - square) / 2
    rows = (side, height), Image.Resampling.BICUBIC, (left, 0, left + square, height)
    columns = (side, side), Image.Resampling.BICUBIC, (0, top, side, top + square)
    return picture.resize(*rows).resize(*columns)


@pytest.mark.parametrize("size", [(451, 300), (37, 52), (227, 227), (128, 700), (4, 3)])
def test_a_photo_is_resized_as_pillow_does_it(visit, size):
    """To the last bit, rows first: enlarged, reduced, and as it is."""
    tab = visit()
    rgba = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    rgba[: size[1] // 2, :, :3] = np.array(photograph("coffee").resize(size))[: size[1] // 2]
    text = base64.b64encode(rgba.tobytes()).decode()
    tab.evaluate(f"text => {{ window.pixels = ({UNPACK})(text) }}", text)
    for side in (227, 128):
        want = rows_first(Image.fromarray(rgba[..., :3]), side)
        expression = f"live.fit(pixels, {size[0]}, {size[1]}, {side})"
        found = numbers(tab, expression, (side, side, 3), np.uint8)
        assert torch.equal(found, torch.from_numpy(np.array(want)))


def test_a_photo_of_ones_own_is_what_python_reads(made, visit, tmp_path):
    """A PNG, and one turned on its side as cameras do."""
    tab, side = visit(), made[1][0].size
    picture = photograph("motorcycle").resize((300, 200))
    exif = Image.Exif()
    exif[274] = 6
    for name, more in (("plain.png", {}), ("turned.png", {"exif": exif})):
        picture.save(tmp_path / name, **more)
        tab.set_input_files("#file", tmp_path / name)
        want = read_image(tmp_path / name, side).permute(1, 2, 0)
        loaded = "live.state.photo.width + 'x' + live.state.photo.height"
        tab.wait_for_function(f"{loaded} === '{'200x300' if more else '300x200'}'")
        found = numbers(tab, "live.state.pixels", (side, side, 3), np.uint8)
        with Image.open(tmp_path / name) as read:
            exact = rows_first(ImageOps.exif_transpose(read), side)
        assert torch.equal(found, torch.from_numpy(np.array(exact)))
        assert float((found.float() - want.float()).abs().mean()) < 0.5  # levels
    (tmp_path / "no.png").write_text("no picture")
    tab.set_input_files("#file", tmp_path / "no.png")
    tab.get_by_text("cannot read that file as a picture").wait_for()


def test_the_square_moves_by_keyboard_and_by_hand(made, visit, report):
    """What is said while it moves is what PyTorch says of the image with the square in it."""
    tab, net = visit(), made[1][0]
    model, middle = rounded(net.model), (net.size - net.square.size) / 2
    tab.locator("#stack").focus()
    tab.keyboard.press("ArrowDown")  # no square yet: nothing moves
    assert tab.evaluate("live.state.square") is None
    tab.locator("#cover").focus()
    tab.keyboard.press("Space")
    tab.locator("#stack").focus()
    mean = [round(float(value)) for value in net.mean.flatten()]
    painted = tab.locator("#square").evaluate("one => getComputedStyle(one).backgroundColor")
    assert painted == f"rgb({', '.join(map(str, mean))})"
    for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowDown"):
        tab.keyboard.press(key)
    square = tab.evaluate("live.state.square")
    assert (square["top"], square["left"]) == (int(middle + 0.5) + 1, int(middle + 0.5) - 16)
    times = []
    box = tab.locator("#stack").bounding_box()
    for step in range(6):
        x, y = box["x"] + box["width"] * (0.3 + 0.08 * step), box["y"] + box["height"] / 2
        tab.mouse.move(x, y)
        if not step:
            tab.mouse.down()
        tab.wait_for_timeout(100)
        tab.evaluate("live.moveSquare(live.state.square.top, live.state.square.left)")
        times.append(tab.evaluate("live.state.times.square"))
    tab.mouse.up()
    report(f"live page, square: {median(times):.0f} ms (at most {max(times):.0f} ms)")
    square, side = tab.evaluate("live.state.square"), net.square.size
    assert square["side"] == side and square["left"] > middle
    pixels = numbers(tab, "live.state.pixels", (net.size, net.size, 3), np.uint8)
    image = net.images(pixels.permute(2, 0, 1)[None]).batch([0])
    top, left = square["top"], square["left"]
    with torch.no_grad():
        clean = probabilities(model(image))[0]
        image[..., top : top + side, left : left + side] = 0
        want = probabilities(model(image))[0]
    assert off(numbers(tab, "Float32Array.from(live.state.now.guess)", want.shape), want) <= 1e-4
    first = int(clean.argmax())
    said = f"{net.called(first)}: {100 * clean[first]:.1f} % → {100 * want[first]:.1f} %"
    assert said in tab.locator("#effect").inner_text() and f"{want[first]:.3f}" != "1.000"
    tab.locator("#stack").focus()
    tab.keyboard.press("Escape")
    assert tab.locator("#square").is_hidden() and tab.locator("#effect").inner_text() == ""


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_units_are_chosen_by_click_and_by_keyboard(made, visit, report, width, scheme):
    """On a wide page and on a phone: the frame on the photo is the unit's receptive field, and the
    picture its projection.
    """
    tab, net = visit(width, scheme, has_touch=width == 390), made[1][0]
    report(f"live page: ready after {tab.evaluate('live.state.times')['page ready after']:.0f} ms")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    drawn = "document.querySelector('#projection').toDataURL()"
    tab.get_by_role("button", name="Stage 3").click()
    tab.locator("#maps button").nth(4).click()
    tab.wait_for_function("live.state.times.projection > 0")
    before = tab.evaluate(drawn)
    tab.locator("#map").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
    tab.wait_for_function(f"{drawn} !== {before!r}")
    row, col = tab.evaluate("live.state.unit")
    assert f"unit at row {row}, column {col}" in tab.locator("#unit").inner_text()
    (top, bottom), (left, right) = tab.evaluate(
        "[live.nets[0].stages[2].rows[live.state.unit[0]],"
        " live.nets[0].stages[2].columns[live.state.unit[1]]]"
    )
    layer = paper_layers(net.model)[3]
    pixels = numbers(tab, "live.state.pixels", (net.size, net.size, 3), np.uint8)
    image = net.images(pixels.permute(2, 0, 1)[None]).batch([0])
    channel = tab.evaluate("live.state.channel")
    patch = Deconvnet(net.model).project_patches(image, layer, channel, (row, col))
    assert patch.box[0].tolist() == [top, left, bottom, right]
    shape = tab.evaluate("[live.state.pixels.length, document.querySelector('#seen').width]")
    assert shape == [3 * net.size**2, right - left]
    tab.get_by_role("button", name=re.compile("^All ")).click()
    assert tab.locator("#maps button").count() == tab.evaluate("live.nets[0].stages[2].channels")
    # every control has a name, and the page no heading that skips a level
    assert tab.evaluate(
        "[...document.querySelectorAll('button, input, canvas[tabindex], #stack')].every(one =>"
        " (one.getAttribute('aria-label') || one.textContent || one.labels?.[0]?.textContent ||"
        " one.querySelector('img')?.alt || '').trim())"
    )
    assert tab.evaluate("[...document.querySelectorAll('h1, h2')].map(one => one.tagName)[0]") == (
        "H1"
    )
