"""One photograph, one net: which maps fire, where, and what in the picture made them.

    net = load_net()                                             # zfnet.nets
    photo = read_photos(["cat.jpg"], net)                        # Images: the largest centred
    square, brought to the net's input size
    found = explain(net.model, photo.batch([0])[0], "relu5")  # the strongest map, projected
    whole and from its strongest unit

The same `Deconvnet`, `occlude` and `scan` as in the notebooks, for `python -m zfnet explain |
occlude | top9`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from zfnet.data.files import Files, decode, look_through, read_image, said_of
from zfnet.data.images import Images
from zfnet.graph.forward import evaluating, unwrapped
from zfnet.graph.trace import paper_layers, trace
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.feature_maps import strongest_channels
from zfnet.methods.probabilities import first_output, probabilities
from zfnet.models.build import matching, plain
from zfnet.models.named import Net
from zfnet.store.errors import UserError, require


@dataclass(frozen=True)
class Explained:
    """One map of one image, all tensors on the CPU.

    maps (h, w): its activations, `total` their sum; whole (3, S, S): the map projected; unit: row
    and column of its first largest value, `value` it; patch (3, S, S): that unit alone projected;
    box: what the unit sees, (top, left, bottom, right), half-open, clipped.
    """

    layer: str
    channel: int
    maps: torch.Tensor
    total: float
    whole: torch.Tensor
    unit: tuple[int, int]
    value: float
    patch: torch.Tensor
    box: tuple[int, int, int, int]


def read_photos(paths: Sequence[str | Path], net: Net) -> Images:
    """Image files as the net's input: EXIF-rotated, RGB, the largest centred square, resized.
    FileNotFoundError or ValueError names a file that is none.
    """
    pixels = []
    for path in map(Path, paths):
        if path.is_dir():
            raise UserError(f"{path} is a folder; this takes one image (`top9` takes a folder)")
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        try:
            pixels.append(read_image(path, net.size))
        except ValueError as error:
            raise UserError(f"{path} is not an image that can be read ({error})") from None
    return net.images(torch.stack(pixels), [path.name for path in map(Path, paths)])


def read_photo_folder(folder: str | Path, net: Net, memory: float = 2.0) -> Images:
    """All images below a folder, in the order of their names, as the net's input; beyond `memory`
    (GiB) they stay in their files.

    Unreadable ones are skipped with a warning; more than 1 % of them is a ValueError.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is a file; this takes a folder of images"
            if root.exists()
            else f"no folder {root}"
        )
    entries, others = look_through(root)
    if not entries:
        raise FileNotFoundError(
            f"no images in {root}: expected .jpg, .png, or another format of Pillow's."
            f" {said_of(others, root)}".rstrip()
        )
    if others:
        warnings.warn(said_of(others, root), stacklevel=2)
    pixels, kept = decode(Files(root, entries, net.size), memory)
    return net.images(pixels, [entries[n][0] for n in kept.tolist()])


def layer_name(model: nn.Module, layer: str | int) -> str:
    """The layer of a net that a reader means: 5 is the paper's layer 5, "relu5", "features.28" or
    "layer3.1.relu" one by its name.

    Raises UserError that lists what there is.
    """
    graph, text = trace(model), str(layer)
    layers, names = paper_layers(graph), graph.names
    if text.isdecimal() and int(text) in layers:
        return layers[int(text)]
    name = text.removeprefix("features.")
    if name in names and (text != name or not text.isdecimal()):
        return name
    numbers = [name for name in names if name.isdecimal()]
    shown = [f"features.{name}" if name in numbers else name for name in names]
    listed = ", ".join(shown) if len(shown) <= 20 else f"{shown[0]} to {shown[-1]}"
    paper = (
        f"the paper's layers are {', '.join(f'{n} ({layers[n]})' for n in layers)}"
        if layers
        else "it has no rectified layer"
    )
    raise UserError(f"no layer {text!r} in this net: {paper}; or a layer by its name: {listed}")


def explain(
    model: nn.Module, image: torch.Tensor, layer: str, channels: Sequence[int] | int = 1
) -> list[Explained]:
    """Maps of `layer` for one image (3, S, S), each projected down to pixels, whole and from its
    strongest unit (paper, section 2.1).

    channels: which ones, or how many of the strongest: those with the largest total activity, best
    first. Raises ValueError for a layer or channel that the net does not have.
    """
    deconvnet = Deconvnet(model)
    maps = deconvnet.activations(image[None], layer)[0].cpu()
    if isinstance(channels, int):
        channels = strongest_channels(maps, channels).tolist()
    for channel in channels:
        if not 0 <= channel < len(maps):
            raise UserError(
                f"no channel {channel} in {layer}, which has channels 0 to {len(maps) - 1}"
            )
    field, found = receptive_field(deconvnet.graph, layer, tuple(image.shape[-2:])), []
    for channel in channels:
        unit = divmod(int(maps[channel].argmax()), maps.shape[2])
        whole, patch = (
            deconvnet.project(image[None], layer, channel, position)[0].cpu()
            for position in (None, unit)
        )
        found.append(
            Explained(
                layer,
                channel,
                maps[channel],
                float(maps[channel].sum()),
                whole,
                unit,
                float(maps[channel][unit]),
                patch,
                field.box(*unit),
            )
        )
    return found


@torch.no_grad()
def guesses(net: Net, image: torch.Tensor) -> torch.Tensor | None:
    """What the net makes of one image (3, S, S): probabilities (classes,) on the CPU, or None where
    it has no classifier.
    """
    if not net.classifies:
        return None
    model = unwrapped(net.model)
    with evaluating(model):
        return probabilities(first_output(model(image[None].to(next(model.parameters())))))[0].cpu()


def target_class(net: Net, outputs: int, name: str | int) -> int:
    """The output that a class name or a number means: first the very name, then a number, then the
    name in another case or Unicode form.

    UserError where there is none, with names that are close, or where several have that name.
    """
    text, known = str(name), net.classes
    named = [n for n, each in enumerate(known) if each == text]
    if not named and text.removeprefix("-").isdecimal():
        require(
            0 <= int(text) < outputs,
            f"no class {text}: this net has classes 0 to {outputs - 1}{_listed(known)}",
        )
        return int(text)
    named = named or matching(known, text)
    require(
        len(named) < 2,
        f"class {text!r} stands for {len(named)} outputs of this net",
        f"give its number, {' or '.join(map(str, named))}",
    )
    if named:
        return named[0]
    require(
        known,
        f"no class {text!r}: this net's classes have no names; give a number from 0 to"
        f" {outputs - 1}",
    )
    letters = [plain(each) for each in known]
    near = [known[letters.index(guess)] for guess in get_close_matches(plain(text), letters, n=3)]
    near = near or [each for each in known if plain(text) in plain(each)]
    raise UserError(
        f"no class {text!r}."
        + (
            f" Did you mean {' or '.join(map(repr, near[:5]))}?"
            if near
            else f" A number from 0 to {outputs - 1} will do too{_listed(known)}"
        )
    )


def _listed(names: Sequence[str]) -> str:
    """Names with their numbers, the first twenty, for the end of a message."""
    shown = ", ".join(f"{n} {name}" for n, name in enumerate(names[:20]))
    return f": {shown}{', …' if len(names) > 20 else ''}" if names else ""
