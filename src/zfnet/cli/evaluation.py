"""`zfnet evaluate`: how often a net names the class of photographs whose folders say it."""

import argparse
import dataclasses
import warnings
from pathlib import Path

from zfnet.data.files import Files, look_through, said_of, select
from zfnet.data.folders import read_folder
from zfnet.data.images import Images
from zfnet.models.build import outputs_of
from zfnet.models.named import Net, load_net
from zfnet.store.errors import WrongType, require
from zfnet.store.profiles import profile_names, read_profile
from zfnet.training.evaluation import evaluate


def add_verb(verbs) -> None:
    """Add the verb to an argument parser's subparsers."""
    text = "how often a net names the class of photographs: top 1, top 5, n"
    one = verbs.add_parser("evaluate", help=text, description=text[0].upper() + text[1:] + ".")
    one.add_argument("model", help="which net, as --model of `zfnet explain`")
    one.add_argument(
        "folder",
        nargs="*",
        type=Path,
        help="class folders of images, named as the net's classes; default: the profile's",
    )
    one.add_argument("--weights", metavar="FILE", help="a local file of weights for it")
    one.add_argument("--device", metavar="D", help="cpu, cuda, ...; default: the GPU if any")


def report(arguments: argparse.Namespace) -> str:
    """What the command prints. UserError, FileNotFoundError where there is nothing to compare."""
    net = load_net(arguments.model, arguments.weights, device=arguments.device)
    folders = arguments.folder
    if not folders and arguments.model in profile_names():
        profile = read_profile(arguments.model)
        folders = profile.data_roots if profile.data.root else ()
    require(
        folders, f"{arguments.model} names no folder of photographs", "give one, as CLASS/image"
    )
    lines = [f"{net.title}: centre crops, {net.size} of {net.resize or net.size} pixels"]
    for folder in folders:
        images, other = photographs(net, folder)
        found = evaluate(net.model, images)
        left = f"; {other:,} images of classes that the net does not know left out" * bool(other)
        lines.append(
            f"{folder.name}: top 1 {found.accuracy:.1%}, top 5 {found.top5:.1%} (n ="
            f" {len(images):,}, {len(images.labels.unique()):,} classes{left})"
        )
    if len(net.classes) == 1000:
        lines.append(
            "ImageNet's own photographs were probably among those that the net was trained on: on"
            " them the numbers are optimistic"
        )
    return "\n".join(lines)


def photographs(net: Net, folder: Path) -> tuple[Images, int]:
    """The images of class folders, labelled by the net's outputs of the same names, and how many
    images of other classes were left out. A name counts whatever its case, with "_" for " ".
    """
    require(
        net.classifies and net.classes,
        f"{net.title} has no classes with names to compare with",
        kind=WrongType,
    )
    require(folder.is_dir(), f"no folder {folder}", kind=FileNotFoundError)
    entries, others = look_through(folder)
    left_out = said_of(others, folder)
    require(entries, f"no images in {folder}. {left_out}".rstrip(), kind=FileNotFoundError)
    if left_out:
        warnings.warn(left_out, stacklevel=2)
    files = Files(folder, entries, net.resize or net.size)
    pixels, labels, names, paths, _ = read_folder(files, 2.0)
    outputs = outputs_of(net.classes, names, labels)
    known = (outputs >= 0).nonzero().flatten()
    require(
        len(known),
        f"no folder in {folder} has the name of a class of {net.title}",
        f"its classes are {', '.join(net.classes[:3])}, …",
    )
    images = dataclasses.replace(
        net.images(select(pixels, known), select(paths, known)), labels=outputs[known]
    )
    return images, len(labels) - len(known)
