"""The gallery: its numbers against the scan, its pictures against the figures' panels, its pages in
a real browser, opened as files.
"""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import browser
from zfnet import Deconvnet, ZFNet, load_data, load_scan, paper_layers, plots, receptive_field
from zfnet.cli import main as __main__
from zfnet.data.shapes import make_shapes
from zfnet.gallery import build as build_gallery
from zfnet.gallery import pages
from zfnet.gallery.ranges import BINS, ranges
from zfnet.store.profiles import DataConfig, Profile

build_module = __import__("zfnet.gallery.build", fromlist=["build"])

pytestmark = pytest.mark.slow

# Names that break a page, a script or a CSV where they are not escaped; the folders "<" and
# "script>..." make "</script>".
CLASSES = {
    "</script><b>bold": "<",
    'a "quoted", class': 'a "quoted", class',
    "it's & plain": "it's & plain",
}
NAMES = [
    '<img src=x onerror="window.hacked=1"> {}.png',
    "=1+1, {}.png",
    "100% #{} {{{{ {} }}}}.png",
]
SILENT = (3, 2)  # layer, map
RARE = (4, 1)
PROFILE = Profile(
    "tiny",
    'Tiny & <i>"odd"</i>',
    data=DataConfig(source="folder", root="data", resize=68, size=64, validation=0.7, test=0.2),
)


def net() -> torch.nn.Module:
    """Random; one map never fires, one fires in a few images only."""
    torch.manual_seed(0)
    made = ZFNet(3, input_size=64, maps=(6, 9, 8, 8, 7), fc=(8,)).eval()
    made.features.conv3.bias.data[SILENT[1]] = -1e6
    return made


class Made:
    """A built gallery and what it was built from."""

    def __init__(self, profile, data, model, index):
        self.profile, self.images, self.model, self.index, self.folder = (
            profile,
            data.val,
            model,
            index,
            index.parent,
        )
        self.names = paper_layers(model.features)
        self.top = load_scan(profile, model, self.images, list(self.names.values()))
        self.fields = {
            number: receptive_field(model.features, name, 64) for number, name in self.names.items()
        }

    def maps(self, number):
        return range(len(self.top[self.names[number]].value))

    def units(self, number, channel) -> list[dict]:
        """What the CSV should say of a map, from the scan alone."""
        top, found = self.top[self.names[number]], []
        for n in range(9):
            index, row, col = (int(table[channel, n]) for table in (top.image, top.row, top.col))
            box = dict(
                zip(
                    ("top", "left", "bottom", "right"),
                    self.fields[number].box(row, col),
                    strict=True,
                )
            )
            found.append(
                {
                    "layer": number,
                    "map": channel,
                    "rank": n + 1,
                    "value": float(top.value[channel, n]),
                    "image": index,
                    "name": self.images.names[index],
                    "class": self.images.classes[int(self.images.labels[index])],
                    "row": row,
                    "col": col,
                    **box,
                }
            )
        return found

    def address(self, page: str, fragment: str = "") -> str:
        return (self.folder / page).as_uri() + (f"#{fragment}" if fragment else "")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A project with a folder of 45 oddly named images, in which the profile's net is the random
    one.
    """
    root = tmp_path_factory.mktemp("project")
    drawn = make_shapes(45, 68, 1).images
    for n, picture in enumerate(drawn):
        name = list(CLASSES)[n % 3]
        path = root / "data" / name / NAMES[n // 3 % 3].format(n, n)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zfnet.store.profiles.ROOT", root)
        data, model = load_data(PROFILE), net()
        with torch.no_grad():  # a bias that leaves the rare map a few images
            best = (
                Deconvnet(model.features)
                .activations(data.val.batch(range(len(data.val))), "conv4")[:, RARE[1]]
                .amax((1, 2))
            )
            model.features.conv4.bias[RARE[1]] -= best.sort(descending=True).values[3:5].mean()
        patch.setattr(build_module, "trained", lambda profile, data: model)
        yield data, model


@pytest.fixture(scope="module")
def made(workshop):
    data, model = workshop
    index, new = build_gallery(PROFILE, progress=False)
    assert new and index.name == "index.html"
    return Made(PROFILE, data, model, index)


class Page(html.parser.HTMLParser):
    """A page's JSON by id, its links and sources, the text of its elements."""

    def __init__(self, path: Path):
        super().__init__()
        self.json, self.links, self._id, self.tags = {}, [], None, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self._id = (
            found.get("id") if tag == "script" and found.get("type") == "application/json" else None
        )
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.links += re.findall(r"url\((.*?)\)", found.get("style", ""))

    def handle_data(self, text):
        if self._id:
            self.json[self._id] = json.loads(text)
            self._id = None


# --- Numbers --------------------------------------------------------------------------------------


def test_the_values_are_the_scans(made):
    alive = {}
    for number, name in made.names.items():
        top, data = made.top[name], Page(made.folder / f"layer-{number}.html").json["data"]
        assert [one["channel"] for one in data["maps"]] == list(made.maps(number))
        for one in data["maps"]:
            channel = one["channel"]
            assert torch.equal(torch.tensor(one["value"], dtype=torch.float32), top.value[channel])
            assert [one[key] for key in ("image", "row", "col")] == [
                getattr(top, key)[channel].tolist() for key in ("image", "row", "col")
            ]
            units = made.units(number, channel)
            assert [one["box"][n] for n in range(9)] == [
                [unit[side] for side in ("top", "left", "bottom", "right")] for unit in units
            ]
            assert [data["names"][str(index)] for index in one["image"]] == [
                unit["name"] for unit in units
            ]
            assert [data["classes"][data["labels"][str(index)]] for index in one["image"]] == [
                unit["class"] for unit in units
            ]
            kinds = [unit["class"] for unit in units if unit["value"] > 0]
            assert {data["classes"][label]: n for label, n in one["classes"]} == {
                kind: kinds.count(kind) for kind in kinds
            }
            alive[number, channel] = one["alive"]
            assert one["alive"] == len(kinds)
            own = Page(made.folder / f"layer-{number}" / f"{channel}.html").json["data"]
            assert own["maps"] == [one] and own["names"].items() <= data["names"].items()
    assert alive[SILENT] == 0 and alive[RARE] == 4 and sum(n == 9 for n in alive.values()) > 20


def test_ranges_are_those_of_all_units(made):
    found = ranges(made.model.features, made.images, made.top, batch_size=7)
    inputs = made.images.batch(range(len(made.images)))
    for name, one in found.items():
        maps = Deconvnet(made.model.features).activations(inputs, name)
        torch.testing.assert_close(one.low, maps.amin((0, 2, 3)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.high, maps.amax((0, 2, 3)), rtol=1e-5, atol=1e-5)
        best = maps.amax((2, 3))
        assert one.fires.tolist() == (best > 0).sum(0).tolist()
        for channel, counts in enumerate(one.histogram):
            top = float(one.high[channel])
            edges = np.linspace(0, top or 1, BINS + 1)
            assert int(counts.sum()) == len(made.images)
            # one on an edge may fall to either side
            assert (
                np.abs(
                    np.cumsum(np.histogram(best[:, channel], edges)[0]) - counts.cumsum(0).numpy()
                ).max()
                <= 1
            )
    assert found["relu3"].fires[SILENT[1]] == 0 and found["relu4"].fires[RARE[1]] == 4


def test_maps_alike_share_the_most_images(made):
    layers = [
        pages.Layer(n, name, made.fields[n], made.top[name], None) for n, name in made.names.items()
    ]
    likes = {
        (n, c): {unit["image"] for unit in made.units(n, c) if unit["value"] > 0}
        for n in made.names
        for c in made.maps(n)
    }
    found = pages.alike(layers, 5)
    assert set(found) == set(likes) and found[SILENT] == []
    for key, others in found.items():
        ranked = sorted(
            (-len(likes[key] & liked), other) for other, liked in likes.items() if other != key
        )[:5]
        assert others == [(*other, -n) for n, other in ranked if n <= -2], key
    assert sum(map(len, found.values())) > 50


def test_a_float_is_written_with_the_fewest_digits():
    values = torch.tensor([0.1, 17.272932, 1 / 3, 1e-7, 123456.0, 0.0])
    assert [pages.short(v) for v in values] == [0.1, 17.272932, 0.33333334, 1e-7, 123456.0, 0.0]
    assert [pages.three(v) for v in (0.1, 17.2729, 66.95, 100, 12345.6, 0.00001234)] == [
        "0.100",
        "17.3",
        "67.0",
        "100",
        "1.23e+04",
        "1.23e-05",
    ]


# --- Pictures -------------------------------------------------------------------------------------


def test_the_sprites_are_the_panels_of_the_figures(made, report):
    worst, exact = 0.0, 0
    for number, name in made.names.items():
        tile = min(64, made.fields[number].size[0])
        for channel in made.maps(number):
            files = sorted((made.folder / f"layer-{number}").glob(f"{channel}-*"))
            if made.top[name].value[channel, 0] <= 0:
                assert not files
                continue
            assert len(files) == 2
            sheets = plots.top9_tiles(
                Deconvnet(made.model.features),
                made.images,
                name,
                made.top[name],
                torch.tensor([channel]),
            )
            for kind, (tiles,) in zip(("projections", "patches"), sheets, strict=True):
                (file,) = (path for path in files if kind in path.name)
                got = np.asarray(Image.open(file).convert("RGB")).astype(float)
                assert got.shape == (3 * tile, 3 * tile, 3)
                parts = [got[n // 3 * tile :, n % 3 * tile :][:tile, :tile] for n in range(9)]
                error = max(
                    np.abs(part - np.rint(255 * panel)).mean()
                    for part, panel in zip(parts, tiles, strict=True)
                )
                if tile < 40:
                    assert error == 0 and file.suffix == ".webp"
                    exact += 1
                else:
                    assert error < 7 and file.suffix == ".jpg"
                    worst = max(worst, error)
    assert exact and worst
    report(
        f"gallery: {exact} sprites equal the figures' panels to the last bit; JPEGs, of noise,"
        f" deviate by {worst:.1f} of 255 on average at most"
    )


def test_the_images_are_the_nets_input(made):
    used = {
        unit["image"]
        for n in made.names
        for c in made.maps(n)
        for unit in made.units(n, c)
        if unit["value"] > 0
    }
    files = {int(path.stem): path for path in (made.folder / "images").iterdir()}
    assert set(files) == used
    for index, path in files.items():
        picture = made.images.pictures([index])[0].permute(1, 2, 0).numpy().astype(float)
        # drawn with noise
        assert np.abs(np.asarray(Image.open(path)).astype(float) - picture).mean() < 6


def test_a_tile_lies_where_its_unit_sees_the_image(made):
    whole = beyond = 0
    for number, name in made.names.items():
        layer = pages.Layer(number, name, made.fields[number], made.top[name], None)
        for channel in list(made.maps(number))[:5]:
            units = {
                key: getattr(made.top[name], key)[channel].tolist()
                for key in ("image", "row", "col")
            }
            units["box"] = [
                made.fields[number].box(*unit)
                for unit in zip(units["row"], units["col"], strict=True)
            ]
            found = Deconvnet(made.model.features).project_patches(
                made.images.batch(units["image"]),
                name,
                channel,
                torch.tensor([units["row"], units["col"]]).T,
            )
            outside = np.zeros((3 * layer.tile, 3 * layer.tile), bool)
            for x, y, right, down in re.findall(
                r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", pages.beyond(layer, units)
            ):
                outside[int(y) : int(y) + int(down), int(x) : int(x) + int(right)] = True
            for n, place in enumerate(pages.places(layer, units)):
                corner = [round(place[key] * 64 / 100, 3) for key in ("top", "left")]
                assert corner == ([0, 0] if layer.tile == 64 else found.corner[n].tolist())
                box = [place[f"box_{key}"] * 64 / 100 for key in ("top", "left", "height", "width")]
                top, left, bottom, right = found.box[n].tolist()
                assert box == pytest.approx([top, left, bottom - top, right - left], abs=1e-3)
                whole += layer.tile == 64
                black = plots.crop_field(
                    np.zeros((64, 64, 3)), made.fields[number], units["row"][n], units["col"][n]
                )
                part = outside[n // 3 * layer.tile :, n % 3 * layer.tile :][
                    : layer.tile, : layer.tile
                ]
                assert np.array_equal(part, black[..., 0] == 1)
                beyond += bool(part.any())
    assert whole and beyond


# --- The site as files ----------------------------------------------------------------------------


def test_every_link_stays_in_the_site_and_leads_somewhere(made):
    html_files = list(made.folder.rglob("*.html"))
    assert len(html_files) == 1 + 5 + sum(len(made.maps(number)) for number in made.names)
    for path in html_files:
        page = Page(path)
        for link in page.links:
            target, _, fragment = link.partition("#")
            if link.startswith("data:") or not target:
                continue
            place = (path.parent / urllib.parse.unquote(target)).resolve()
            assert place.is_file() and place.is_relative_to(made.folder), (path.name, link)
            assert not fragment or ("id", fragment) in {
                ("id", attributes.get("id")) for _, attributes in Page(place).tags
            }
        text = path.read_text(encoding="utf-8")
        assert "://" not in text and "{{" not in re.sub(r"100% #\d+ \{\{ \d+ \}\}", "", text)
    for path in (made.folder / "assets").iterdir():
        assert not re.search(r"://|@import|fetch\(|\bimport\b|XMLHttpRequest", path.read_text()), (
            path.name
        )


def test_a_second_build_does_nothing_and_a_lost_page_is_written_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*") if path.is_file()}
    assert build_gallery(PROFILE, progress=False) == (made.index, False)
    assert {
        path: path.stat().st_mtime_ns for path in made.folder.rglob("*") if path.is_file()
    } == before
    (made.folder / "layer-2" / "1.html").unlink()
    assert build_gallery(PROFILE, progress=False) == (made.index, True)
    after = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    assert all(
        after[path] == before[path] for path in before if path.suffix in (".jpg", ".webp")
    ), "pictures were drawn anew"


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def copy(made, tmp_path, workshop):
    """A copy of the built project, to spoil."""
    shutil.copytree(made.folder.parent, tmp_path / "runs" / "tiny")
    data, _ = workshop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zfnet.store.profiles.ROOT", tmp_path)
        patch.setattr(build_module, "load_data", lambda profile: data)
        yield tmp_path / "runs" / "tiny" / "gallery"


def test_an_interrupted_build_leaves_the_old_site_and_goes_on(copy, monkeypatch):
    old, changed = _tree(copy), dataclasses.replace(PROFILE, title="Another title")
    with monkeypatch.context() as patch:
        patch.setattr(
            build_module, "write_pages", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            build_gallery(changed, progress=False)
    assert _tree(copy) == old
    (work,) = copy.parent.glob(".gallery.*/")
    killed = (
        "import os, sys; from zfnet.store.artefacts import atomic\n"
        "with atomic(sys.argv[1]) as path:"
        " path.write_text('half'); os._exit(9)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", killed, str(work / "layer-1" / "0-patches.webp")]
        ).returncode
        == 9
    )
    assert len(list(work.rglob(".*.tmp/*"))) == 1
    drawn = []
    monkeypatch.setattr("zfnet.gallery.sprites._draw_map", lambda *_: drawn.append(1))
    assert build_gallery(changed, progress=False)[1] and not drawn
    assert "Another title" in (copy / "index.html").read_text()
    assert [path.name for path in copy.parent.iterdir() if path.is_dir()] == [
        "gallery"
    ] and not list(copy.rglob(".*"))


def test_drawing_that_was_cut_short_goes_on(made, copy, monkeypatch):
    shutil.rmtree(copy)
    import zfnet.gallery.sprites as sprites

    real, drawn = sprites._draw_map, []

    def failing(*arguments):
        drawn.append(arguments[4:])
        if len(drawn) == 12:
            raise OSError("no space left on device")
        real(*arguments)

    monkeypatch.setattr(sprites, "_draw_map", failing)
    with pytest.raises(OSError, match="no space left"):
        build_gallery(PROFILE, progress=False)
    assert not copy.exists() and 12 <= len(drawn) <= 16
    first, drawn[:] = len(drawn) - 1, [None] * 100
    build_gallery(PROFILE, progress=False)
    total = sum(int((top.value[:, 0] > 0).sum()) for top in made.top.values())
    assert (
        len(drawn) - 100 == total - first and len(list(copy.glob("layer-*/*-patches.*"))) == total
    )


def test_a_kill_between_the_two_renames_brings_the_old_site_back(copy):
    old = _tree(copy)
    copy.rename(copy.with_name(".gallery.old"))
    assert build_gallery(PROFILE, progress=False) == (copy / "index.html", False)
    assert _tree(copy) == old


def test_other_weights_are_drawn_anew(copy, workshop, monkeypatch):
    other = net()
    other.features.conv1.weight.data *= -1
    monkeypatch.setattr(build_module, "trained", lambda *_: other)
    before = (copy / "layer-1" / "0-projections.webp").read_bytes()
    assert build_gallery(PROFILE, progress=False)[1]
    assert (copy / "layer-1" / "0-projections.webp").read_bytes() != before


def test_the_zip_is_the_site_and_is_packed_once(copy):
    path, new = build_gallery(PROFILE, archive=True, progress=False)
    assert new and path == copy.with_suffix(".zip")
    with zipfile.ZipFile(path) as zipped:
        assert zipped.testzip() is None
        found = {name: zipped.read(name) for name in zipped.namelist()}
    assert found == {
        f"gallery/{name}": content for name, content in _tree(copy).items() if name != "state.json"
    }
    content = path.read_bytes()
    assert build_gallery(PROFILE, archive=True, progress=False) == (path, False)
    path.write_bytes(b"half a zip")
    assert (
        build_gallery(PROFILE, archive=True, progress=False) == (path, True)
        and path.read_bytes() == content
    )


def test_the_command_says_where_it_is(copy, monkeypatch, capsys):
    monkeypatch.setattr("zfnet.cli.main.load_profile", lambda name: PROFILE)
    assert __main__.main(["gallery", "tiny", "--zip"]) == 0
    assert capsys.readouterr().out == f"{copy.with_suffix('.zip')}: made\n"
    assert __main__.main(["gallery", "tiny"]) == 0
    assert capsys.readouterr().out == f"{copy / 'index.html'}: up to date\n"


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture
def visit(chromium, made, report):
    """visit("layer-3.html", width=390, …) -> the page, once it is there; any error in any page
    fails the test.
    """
    if chromium is None:
        report(f"GALLERY NOT DRIVEN IN A BROWSER: {browser.missing()}")
        pytest.skip(f"{browser.missing()}: the gallery's pages are not driven in a browser")
    report(f"gallery: its pages were driven in Chromium {chromium.version}")
    said, contexts = [], []

    def open_page(page: str, fragment: str = "", width: int = 1280, scheme: str = "light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        tab = context.new_page()
        browser.watch(tab, said, quiet=("log", "info", "debug"))
        tab.goto(made.address(page, fragment))
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


KINDS = (
    "index.html",
    "layer-2.html",
    "layer-3.html",
    "layer-4/0.html",
    f"layer-{SILENT[0]}/{SILENT[1]}.html",
    f"layer-{RARE[0]}/{RARE[1]}.html",
)


@pytest.mark.parametrize("page", KINDS)
def test_every_kind_of_page_loads_whole_wide_and_narrow(visit, made, page):
    for width in (1280, 390):
        tab = visit(page, width=width)
        tab.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        tab.wait_for_function(
            "[...document.images].filter(image => image.checkVisibility()).every(image =>"
            " image.complete && image.naturalWidth > 0)"
        )
        for summary in tab.locator(".card:not([hidden]) summary").all()[:2]:
            summary.click()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert (
            tab.evaluate(
                "Math.max(0, ...[...document.querySelectorAll('main *')].filter(node =>"
                " !node.closest('.scroll, .unseen, .frame, svg')).map(node =>"
                " node.getBoundingClientRect().right))"
            )
            <= width
        )
        assert (
            tab.evaluate("window.hacked") is None and tab.locator("main b b, main i b").count() == 0
        )
    assert tab.title().endswith(PROFILE.title)


def test_names_are_shown_as_they_are(visit, made):
    tab = visit("layer-4/0.html")
    units = [unit for unit in made.units(4, 0) if unit["value"] > 0]
    assert tab.locator(".images .name").all_text_contents() == [unit["name"] for unit in units]
    assert tab.locator(".images .class").all_text_contents() == [unit["class"] for unit in units]
    assert tab.locator("#own tbody tr td:nth-child(4)").all_text_contents() == [
        unit["name"] for unit in made.units(4, 0)
    ]


def _shown(tab) -> list[int]:
    return tab.evaluate(
        "[...document.querySelectorAll('.card')].filter(card => card.checkVisibility()).map(card =>"
        " +card.id)"
    )


def _slide(tab, name: str, value) -> None:
    tab.evaluate(
        "([name, value]) => { const input = document.getElementById(name); input.value = value; "
        "input.dispatchEvent(new Event('input', { bubbles: true })) }",
        [name, str(value)],
    )


def test_filters_and_order(visit, made):
    number = SILENT[0]
    units = {channel: made.units(number, channel) for channel in made.maps(number)}
    high = {channel: found[0]["value"] for channel, found in units.items()}
    alive = [channel for channel in units if high[channel] > 0]
    tab = visit(f"layer-{number}.html")
    assert (
        _shown(tab) == alive
        and tab.locator("#count").inner_text() == f"{len(alive)} of {len(units)} maps"
    )
    tab.check("#silent")
    assert _shown(tab) == list(units)
    tab.uncheck("#silent")
    tab.select_option("#sort", "high")
    assert _shown(tab) == sorted(alive, key=lambda channel: -high[channel])
    most, kept = max(high.values()), {}
    for step in (60, 120, 180):
        _slide(tab, "from", step)
        kept[step] = _shown(tab)
        assert kept[step] == [
            channel
            for channel in sorted(alive, key=lambda channel: -high[channel])
            if high[channel] >= most * step / 200
        ]
    _slide(tab, "from", 0)
    _slide(tab, "to", 120)
    below = _shown(tab)
    assert below == [
        channel
        for channel in sorted(alive, key=lambda channel: -high[channel])
        if high[channel] <= most * 120 / 200
    ]
    assert 0 < len(below) < len(alive) and len(set(map(len, kept.values()))) > 1
    tab.click("text=Clear filters")
    tab.wait_for_function(
        "document.getElementById('to').value === '200' && document.getElementById('sort').value ==="
        " 'channel'"
    )
    for label, name in enumerate(made.images.classes):
        tab.select_option("#class", str(label))
        for least in (1, 4, 9):
            _slide(tab, "least", least)
            wanted = [
                channel
                for channel in alive
                if sum(unit["class"] == name and unit["value"] > 0 for unit in units[channel])
                >= least
            ]
            assert _shown(tab) == wanted
            fire = {
                channel: [unit["class"] for unit in units[channel] if unit["value"] > 0]
                for channel in wanted
            }
            said = [
                f"{name} {fire[channel].count(name)}/{len(fire[channel])}" for channel in wanted
            ]
            assert tab.locator(".card:not([hidden]) header p").all_text_contents() == said
    _slide(tab, "least", 4)
    there, address = _shown(tab), tab.evaluate("location.hash")
    assert there and _shown(visit(f"layer-{number}.html", address[1:])) == there, (
        "the address keeps the filters"
    )
    _slide(tab, "least", 9)
    _slide(tab, "from", 200)
    assert "loosen a filter" in tab.locator("#count").inner_text()


def _column(tab, inside: str, name: str) -> list[str]:
    heads = tab.locator(f"{inside} thead th").all_inner_texts()
    place = [head.rstrip(" ↑↓") for head in heads].index(name)
    return tab.locator(f"{inside} tbody tr td:nth-child({place + 1})").all_text_contents()


def test_tables_sort_by_any_column(visit, made):
    tab = visit("layer-4/0.html")
    units = made.units(4, 0)
    for name in ("row", "image", "right"):
        for reverse, said in ((False, "ascending"), (True, "descending")):
            tab.click(f"#own th button:text-is('{name}')")
            assert [int(text) for text in _column(tab, "#own", name)] == sorted(
                (unit[name] for unit in units), reverse=reverse
            )
            assert tab.locator("#own th", has_text=name).first.get_attribute("aria-sort") == said
            assert tab.locator("#own th[aria-sort=none]").count() == 10
    tab.click("#own th button:text-is('value')")
    tab.click("#own th button:text-is('value')")
    assert [float(np.float32(text)) for text in _column(tab, "#own", "value")] == [
        unit["value"] for unit in reversed(units)
    ]
    tab.click("#own th button:text-is('class')")
    assert _column(tab, "#own", "class") == tab.evaluate(
        "names => names.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))",
        [unit["class"] for unit in units],
    )
    tab = visit("layer-4.html")
    card = f"[id='{RARE[1]}']"
    tab.click(f"{card} summary")
    tab.click(f"{card} th button:text-is('rank')")
    tab.click(f"{card} th button:text-is('rank')")
    assert _column(tab, card, "rank") == [str(n) for n in range(9, 0, -1)]
    tab.click("#view")
    units = [
        unit
        for channel in made.maps(4)
        if made.top["relu4"].value[channel, 0] > 0
        for unit in made.units(4, channel)
    ]
    assert tab.locator("#cards").is_hidden() and _column(tab, "#table", "map") == [
        str(unit["map"]) for unit in units
    ]
    tab.click("#table th button:text-is('value')")
    values = [unit["value"] for unit in units]
    assert [float(text) for text in _column(tab, "#table", "value")] == pytest.approx(
        sorted(values, reverse=True), rel=6e-3
    )


def _download(tab, button: str) -> tuple[str, list[dict]]:
    with tab.expect_download() as started:
        tab.click(button)
    with open(started.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = {"name", "class", "value"}
    return started.value.suggested_filename, [
        {
            key: (
                text
                if key in ("name", "class")
                else float(np.float32(text))
                if key in whole
                else int(text)
            )
            for key, text in row.items()
        }
        for row in rows
    ]


def test_downloads_are_the_scans_tables(visit, made):
    tab = visit("layer-4/0.html")
    assert _download(tab, "#own .csv") == ("layer-4-map-0.csv", made.units(4, 0))
    tab.click("#own th button:text-is('image')")
    assert _download(tab, "#own .csv")[1] == sorted(
        made.units(4, 0), key=lambda unit: unit["image"]
    )
    tab = visit("layer-5.html")
    tab.click("[id='3'] summary")
    assert _download(tab, "[id='3'] .csv") == ("layer-5-map-3.csv", made.units(5, 3))
    name, rows = _download(tab, "#csv")
    assert name == "layer-5.csv" and rows == [
        unit for channel in made.maps(5) for unit in made.units(5, channel)
    ]
    _slide(tab, "from", 150)
    assert {row["map"] for row in _download(tab, "#csv")[1]} == set(_shown(tab)) < set(made.maps(5))


def test_addresses_lead_to_maps(visit, made):
    tab = visit("index.html", "3:4")
    tab.wait_for_url(made.address("layer-3/4.html"))
    for fragment, said in (
        ("3:99", "Layer 3 has maps 0 to 7."),
        ("9:1", "There is no layer 9."),
        ("x<b>", "Write layer:map, such as 3:17."),
    ):
        tab = visit("index.html", fragment)
        assert tab.locator("#jump-said").text_content() == said and tab.url.startswith(
            made.index.as_uri()
        )
    tab.evaluate("location.hash = '5:6'")
    tab.wait_for_url(made.address("layer-5/6.html"))
    tab.fill("#jump", "2")
    tab.press("#jump", "Enter")
    tab.wait_for_url(made.address("layer-5/2.html"))
    tab.fill("#jump", " 2 : 3 ")
    tab.press("#jump", "Enter")
    tab.wait_for_url(made.address("layer-2/3.html"))
    for channel in (5, SILENT[1]):
        tab = visit("layer-3.html", str(channel))
        assert tab.evaluate("document.activeElement.closest('.card').id") == str(channel)
        assert channel in _shown(tab)


def test_keys(visit, made):
    def at(page, fragment=""):
        tab.wait_for_url(made.address(page, fragment))

    tab = visit("layer-2.html")
    channels = _shown(tab)
    for key, place in (("ArrowRight", 0), ("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0)):
        tab.keyboard.press(key)
        assert tab.evaluate("document.activeElement.closest('.card').id") == str(channels[place])
    tab.keyboard.press("Enter")
    at(f"layer-2/{channels[0]}.html")
    tab.keyboard.press("j")
    at(f"layer-2/{channels[0] + 1}.html")
    tab.keyboard.press("ArrowLeft")
    at(f"layer-2/{channels[0]}.html")
    tab.keyboard.press("u")
    at("layer-2.html", str(channels[0]))
    tab.keyboard.press("]")
    at("layer-3.html")
    tab.keyboard.press("[")
    at("layer-2.html")
    tab.keyboard.press("u")
    at("index.html")
    tab.keyboard.press("/")
    tab.keyboard.type("4:0")
    tab.keyboard.press("Enter")
    at("layer-4/0.html")
    kinds = []
    for _ in range(4):
        kinds.append(
            (
                tab.locator(".images").get_attribute("class"),
                tab.locator("[name=overlay]:checked").get_attribute("value"),
            )
        )
        tab.keyboard.press("o")
    assert kinds == [(f"images {kind}", kind) for kind in ("over", "alone", "image", "over")]
    tab.keyboard.press("3")
    assert tab.evaluate("document.activeElement.id") == "unit-3"
    assert tab.locator("#own tr.chosen td").first.text_content() == "3"
    tab.keyboard.press("?")
    assert tab.locator("dialog").is_visible() and tab.locator("dialog kbd").count() > 12
    tab.keyboard.press("u")  # not while the list is open
    tab.keyboard.press("Escape")
    assert tab.locator("dialog").is_hidden() and tab.url == made.address("layer-4/0.html")


def test_the_theme_follows_the_system_until_it_is_chosen(visit, made):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (
        visit("index.html").evaluate(ground),
        (tab := visit("index.html", scheme="dark")).evaluate(ground),
    )
    assert light != dark
    assert tab.locator("#theme").inner_text() == "Theme: auto"
    tab.keyboard.press("t")
    assert tab.evaluate(ground) == light
    tab.goto(made.address("layer-4/0.html"))
    assert tab.evaluate(ground) == light and tab.locator("#theme").inner_text() == "Theme: light"
    tab.click("#theme")
    assert tab.evaluate(ground) == dark
    tab.click("#theme")
    assert tab.locator("#theme").inner_text() == "Theme: auto" and tab.evaluate(ground) == dark


def test_the_projection_lies_over_its_own_image(visit, made):
    """Alone, on the screen: the tile's pixels are those that the projection has at that place in
    the whole image.
    """
    number, channel = 2, 0
    tab = visit(f"layer-{number}/{channel}.html")
    tab.check("[name=overlay][value=alone]", force=True)
    top = made.top[made.names[number]]
    index, position = top.image[channel], torch.stack([top.row[channel], top.col[channel]], 1)
    found = Deconvnet(made.model.features).project(
        made.images.batch(index), made.names[number], channel, position
    )
    pictures = 255 * plots.to_grey_centred(found, plots.contrast_scale(found))
    for n in range(9):
        tab.add_style_tag(
            content=f""".box {{ display: none !important }} .frame {{ visibility: hidden }}
            #unit-{n + 1} .frame {{ visibility: visible; position: fixed; left: {64 * n}px;
            top: 100px; width: 64px; border-radius: 0; z-index: 9 }}"""
        )
        shot = tab.screenshot(clip={"x": 64 * n, "y": 100, "width": 64, "height": 64})
        got = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)
        assert got.shape == (64, 64, 3)
        distance = [np.abs(got - picture).mean() for picture in pictures]
        assert distance[n] < 1 and int(np.argmin(distance)) == n, n


# What a page must have to be used without a mouse or without seeing it; each is computed in the
# page and lists what is wrong.
ACCESSIBLE = """() => {
  const wrong = [], all = (what) => [...document.querySelectorAll(what)];
  const need = (holds, what) => { if (!holds) wrong.push(what) };
  const said = (node) => (node.getAttribute("aria-label") || node.textContent).trim();
  need(document.documentElement.lang === "en", "lang");
  for (const tag of ["main", "body > header", "body > footer", "nav[aria-label]", "h1"])
    need(all(tag).length, "no " + tag);
  for (const tag of ["main", "h1"]) need(all(tag).length === 1, "more than one " + tag);
  for (const image of all("img"))
    need((image.getAttribute("alt") || "").length > 3, "alt of " + image.src);
  for (const image of all("svg"))
    need(image.getAttribute("aria-hidden") || image.getAttribute("aria-label"), "nameless svg");
  for (const field of all("input, select")) {
    const own = field.labels;
    need(own.length === 1 && own[0].textContent.trim(), "label of " + field.id);
  }
  for (const node of all("a[href], button, summary"))
    need(said(node) || node.querySelector("img[alt]"), "nameless " + node.outerHTML);
  for (const key of ["aria-labelledby", "aria-describedby"])
    for (const node of all(`[${key}]`))
      for (const id of node.getAttribute(key).split(" "))
        need(document.getElementById(id), "nothing has the id " + id);
  const ids = all("[id]").map(node => node.id);
  need(new Set(ids).size === ids.length, "an id twice");
  need(!all("[tabindex]").some(node => node.tabIndex > 0), "a tabindex above 0");
  let level = 0;
  for (const head of all("main h1, main h2, main h3")) {
    need(+head.tagName[1] <= level + 1, "heading skips a level: " + head.textContent);
    level = +head.tagName[1];
  }
  for (const table of all("table")) {
    const heads = [...table.querySelectorAll("th")];
    need(table.caption && heads.every(head => head.scope === "col"), "caption or scope");
  }
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  let lowest = 99, count = 0;
  for (const node of all("body *")) {
    const written = child => child.nodeType === 3 && child.textContent.trim();
    if (![...node.childNodes].some(written)) continue;
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (/SCRIPT|OPTION/.test(node.tagName)) continue;
    let behind = node, ground = [0, 0, 0, 0];
    while (behind && ground[3] < 1) {
      ground = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    }
    const own = light(parse(getComputedStyle(node).color));
    const [a, b] = [own, light(ground)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    lowest = Math.min(lowest, ratio);
    count += 1;
    const called = `${node.tagName} ${node.className} ${node.textContent.slice(0, 20)}`;
    need(ratio >= 4.5, `contrast ${ratio.toFixed(2)} of ${called}`);
  }
  return [wrong, lowest, count];
}"""


@pytest.mark.parametrize("page", KINDS)
def test_pages_are_accessible(visit, report, page):
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            tab = visit(page, width=width, scheme=scheme)
            if page.startswith("layer-2."):
                tab.evaluate(
                    "document.querySelector('#silent') &&"
                    " document.querySelector('#silent').click();"
                    " document.querySelector('summary').click()"
                )
                tab.locator(".card:not([hidden]) summary").first.click()
            wrong, lowest, count = tab.evaluate(ACCESSIBLE)
            assert wrong == [] and count > 10
            report(
                f"gallery: lowest contrast of text {lowest:.1f} ({scheme},"
                f" {page.split('/')[0].split('.')[0].split('-')[0]} pages)"
            )


@pytest.mark.parametrize("page", ["index.html", "layer-3.html", "layer-4/0.html"])
def test_the_focus_goes_through_the_page_in_its_order_and_is_seen(visit, page):
    tab = visit(page)
    order = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        order.append(
            tab.evaluate("""() => {
            const node = document.activeElement, card = node.closest(".card");
            const label = node.type === "radio" && node.nextElementSibling;
            const around = [node, label, card].filter(Boolean);
            const ring = around.some(one => getComputedStyle(one).outlineStyle !== "none");
            return [[...document.querySelectorAll("*")].indexOf(node), ring, node.className];
        }""")
        )
    places = [place for place, _, _ in order]
    assert places == sorted(places) and len(set(places)) == len(places)
    assert all(ring for _, ring, _ in order), order
    assert order[0][2] == "skip"
    tab = visit(page)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
