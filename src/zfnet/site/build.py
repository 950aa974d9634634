"""From nets to the page: one HTML file with the nets, the runtime, six photographs and, where a
gallery of the same net was built, the nine strongest patches of its maps.
"""

import base64
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch
from PIL import Image, ImageOps

from zfnet.data.photographs import photograph
from zfnet.graph.trace import paper_layers, trace
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.probabilities import first_output, probabilities
from zfnet.models.build import load_model
from zfnet.models.named import SHIPPED, Net, load_net
from zfnet.site.onnx_graph import to_onnx
from zfnet.site.runtime import LICENCE, PACKAGE, VERSION, runtime
from zfnet.store import artefacts, provenance
from zfnet.store.errors import MissingPackage, Unsupported, UserError, require
from zfnet.store.profiles import ROOT, profile_names, read_profile

HERE = Path(__file__).parent
NETS = ("squeezenet", str(SHIPPED))
PHOTOS = ("chelsea", "coffee", "astronaut", "motorcycle", "rocket", "camera")
SIDE = 320  # shorter side of the photographs that come with the page, in pixels
TILES, QUALITY = (32, 24, 20), 40  # of a patch: its side in pixels, and its quality as WebP
PATCHES = 3.2e6  # bytes of all nets' patches; more, and they are made smaller
LARGEST = 100e6  # bytes of weights: beyond it browsers of small machines give up


@dataclass(frozen=True)
class Made:
    """The page that was written: its path and size in bytes, and for each net by how much weights
    in half precision change a probability on the page's photographs, at most.
    """

    path: Path
    size: int
    rounding: dict[str, float]


def build(
    nets: Sequence[str | Net] = NETS,
    target: Path | None = None,
    package: Path | None = None,
) -> Made:
    """Write the page of these nets (names as `load_net` takes them) to `target`,
    runs/live/index.html unless given. `package`: the runtime's .tgz, fetched by npm otherwise.

    Each net is compared with PyTorch before it is written: what it returns, its maps and a
    projection from every stage. Raises Unsupported, by name, for a net that cannot be on a page.
    """
    target = target or ROOT / "runs" / "live" / "index.html"
    photos = {name: _shrunk(photograph(name)) for name in PHOTOS}
    loaded = [net if isinstance(net, Net) else load_net(net, device="cpu") for net in nets]
    require(loaded, "a page needs at least one net")
    script, binary = runtime(package)
    blobs = {"runtime-script": script, "runtime-binary": binary}
    described, rounding = [], {}
    for n, net in enumerate(loaded):
        one, model, rounding[net.title] = describe(net, list(photos.values()))
        blobs[f"net-{n}"] = model
        described.append(one)
    for tile in TILES:
        patches = {f"patches-{n}": nine_strongest(net, tile) for n, net in enumerate(loaded)}
        stages = [nine for found in patches.values() for nine in found.values()]
        if sum(len(picture) for nine in stages for picture in nine.values()) <= PATCHES:
            break
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    page = environment.get_template("live.html").render(
        style=(HERE / "assets" / "live.css").read_text(encoding="utf-8"),
        script=(HERE / "assets" / "live.js").read_text(encoding="utf-8"),
        nets=described,
        photos={name: base64.b64encode(jpeg).decode() for name, jpeg in photos.items()},
        patches=patches,
        blobs={name: _packed(blob) for name, blob in blobs.items()},
        runtime=f"{PACKAGE} {VERSION}",
        licence=LICENCE,
        commit=provenance.commit(),
    )
    with artefacts.atomic(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Made(target, target.stat().st_size, rounding)


def describe(net: Net, photos: Sequence[bytes]) -> tuple[dict, bytes, float]:
    """What the page's script knows of a net, the net as ONNX with weights in half precision, and by
    how much that changes a probability of these photographs (JPEG) at most.
    """
    weights = sum(2 * one.numel() for one in net.model.parameters())
    require(
        weights <= LARGEST,
        f"{net.title}: {weights / 1e6:.0f} MB of weights in half precision are too many for a page",
        "choose a smaller net, such as squeezenet or resnet18",
    )
    require(net.classifies, f"{net.title} gives maps, and a page shows guesses", kind=Unsupported)
    graph = trace(net.model)
    stages = paper_layers(graph)
    require(stages, f"{net.title} has no rectifier: there are no stages to show", kind=Unsupported)
    images = net.images(torch.stack([_fitted(jpeg, net.size) for jpeg in photos]))
    inputs = images.batch(range(len(photos)))
    with torch.no_grad():
        want = torch.cat([first_output(net.model(image[None])) for image in inputs])
    _compare(net, stages, inputs[0], want[0])
    model = to_onnx(graph, stages, net.size, half=True).SerializeToString()
    session, zeros = session_of(model)
    feeds = [{**zeros, "image": image[None].numpy()} for image in inputs]
    half = torch.cat([torch.from_numpy(session.run(["outputs"], one)[0]) for one in feeds])
    exact, rounded = probabilities(want), probabilities(half, want)
    kind = "sigmoid" if want.shape[-1] == 1 else "none" if exact is want else "softmax"
    about = {
        "title": net.title,
        "size": net.size,
        "classes": [net.called(n) for n in range(want.shape[-1])],
        "kind": kind,
        "mean": _numbers(net.mean, net.size),
        "factor": _numbers(net.gain / net.std, net.size),
        "square": net.square.size,
        "stages": [
            _stage(graph, number, layer, net.size, zeros[f"seed_{number}"].shape[1])
            for number, layer in stages.items()
        ],
    }
    return about, model, float((exact - rounded).abs().max())


def session_of(model: bytes):
    """An onnxruntime session of a model, and inputs for it: seeds of zeros, and no way down."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage(
            "a net is compared with PyTorch before it is put on a page, by the package onnxruntime:"
            " pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    zeros = {
        one.name: np.zeros(one.shape, np.float32)
        for one in session.get_inputs()
        if one.name.startswith("seed_")
    }
    return session, {**zeros, "down": np.array(False)}


def _compare(net: Net, stages: dict[int, str], image: torch.Tensor, want: torch.Tensor) -> None:
    """UserError unless the net as ONNX says what it says in PyTorch of one image (3, S, S): what it
    returns, every stage's maps, and the projection of each stage's strongest unit.
    """
    session, zeros = session_of(to_onnx(net.model, stages, net.size).SerializeToString())
    zeros["image"] = image[None].numpy()
    outputs, *maps = session.run(["outputs", *(f"maps_{number}" for number in stages)], zeros)
    pairs, deconvnet = {"outputs": (outputs[0], want, 1e-4)}, Deconvnet(net.model)
    for (number, layer), found in zip(stages.items(), maps, strict=True):
        channel, *unit = np.unravel_index(found.argmax(), found.shape[1:])
        pairs[layer] = (found, deconvnet.activations(image[None], layer), 1e-4)
        seed = np.zeros_like(found)
        seed[0, channel, *unit] = found[0, channel, *unit]
        feeds = {**zeros, f"seed_{number}": seed, "down": np.array(True)}
        projection = deconvnet.project(image[None], layer, int(channel), tuple(map(int, unit)))
        # two positions that are equal but for rounding may change places in a pool
        pairs[f"the projection from {layer}"] = (
            session.run(["pixels"], feeds)[0],
            projection,
            1e-2,
        )
    for name, (got, expected, tolerance) in pairs.items():
        off = (torch.from_numpy(got) - expected).norm() / expected.norm().clamp_min(1e-30)
        require(
            off <= tolerance,
            f"{net.title}: {name} differs from PyTorch's by {off:.1e} of its size as ONNX",
            kind=Unsupported,
        )


def _stage(graph, number: int, layer: str, size: int, channels: int) -> dict:
    """A stage's name and sizes, and which pixels the units of a row, and of a column, see."""
    field = receptive_field(graph, layer, size)
    rows, cols = field.map_size
    return {
        "number": number,
        "layer": layer,
        "channels": channels,
        "rows": [field.box(row, 0)[0::2] for row in range(rows)],
        "columns": [field.box(0, col)[1::2] for col in range(cols)],
    }


def nine_strongest(net: Net, tile: int = TILES[0]) -> dict[int, dict[int, str]]:
    """{stage: {map: its nine strongest patches, three by three, WebP as base64}} from the gallery
    of a profile with the same weights, {} where none was built. `tile`: a patch's side at most.
    """
    state = net.model.state_dict()
    for name in profile_names():
        profile = read_profile(name)
        gallery = profile.runs / "gallery"
        if not (gallery / "index.html").is_file():
            continue
        try:
            own = load_model(profile).state_dict()
        except (UserError, OSError):  # weights that are there no more
            continue
        if not _same(own, state):
            continue
        found: dict[int, dict[int, str]] = {}
        for path in sorted(gallery.glob("layer-*/*-patches.*")):
            number, channel = int(path.parent.name[6:]), int(path.stem.partition("-")[0])
            with Image.open(path) as picture:
                side = min(picture.width, 3 * tile)
                small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            small.save(file, "WEBP", quality=QUALITY)
            found.setdefault(number, {})[channel] = base64.b64encode(file.getvalue()).decode()
        return found
    return {}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states hold the same weights, those of one perhaps in half precision."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].half(), other[name].half()) for name in one
    )


def _shrunk(picture: Image.Image) -> bytes:
    """A photograph as JPEG, its shorter side `SIDE` pixels or fewer."""
    share = min(1, SIDE / min(picture.size))
    size = tuple(round(n * share) for n in picture.size)
    file = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def _fitted(jpeg: bytes, side: int) -> torch.Tensor:
    """uint8 (3, side, side): the largest centred square, as `read_image` makes it of a file."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        fitted = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def _numbers(values: torch.Tensor, size: int) -> str | list[float]:
    """One number for each colour, or for each pixel as base64 of float32."""
    values = values.expand(3, *values.shape[1:]).float()
    if values.shape[1:] == (1, 1):
        return values.flatten().tolist()
    return base64.b64encode(values.expand(3, size, size).numpy().tobytes()).decode()


def _packed(blob: bytes) -> str:
    """gzip as base64: what the page unpacks with the browser's own means."""
    return base64.b64encode(gzip.compress(blob, 9, mtime=0)).decode()
