"""Pictures of your own images: `zfnet explain|occlude|top9 …`; and the steps behind the Makefile.

What is wrong with the input is said in one line; a bug shows its traceback.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zfnet.cli import photographs
from zfnet.store.errors import UserError, typed

STEPS = {
    "train": "train the profile's net (nothing to do when it is trained already, or pretrained)",
    "scan": "find the top activations of all feature maps of layers 1-5",
    "notebooks": "print the notebooks that apply to the profile, one per line",
    "gallery": (
        "write the static site of all feature maps, runs/PROFILE/gallery/index.html, unless it is"
        " there and current"
    ),
    "export": "write the trained net to one small file that other profiles can read",
}


def main(argv: list[str] | None = None) -> int:
    """The console script `zfnet`: 0, or 1 after an error's one line, 130 after an interruption."""
    arguments = _parser().parse_args(argv)
    try:
        _carry_out(arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished", file=sys.stderr)
        return 130
    except Exception as error:
        known = typed(error)
        if arguments.traceback or not isinstance(known, UserError | OSError):
            raise
        print(f"error: {known}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zfnet", description=__doc__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from, whatever it is"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    photographs.add_verbs(verbs)
    made = {
        verb: verbs.add_parser(verb, help=text, description=text) for verb, text in STEPS.items()
    }
    for one in made.values():
        one.add_argument("profile", help="a name in profiles/, or a .yaml file")
    made["gallery"].add_argument(
        "--zip", action="store_true", help="also pack it to runs/PROFILE/gallery.zip"
    )
    made["export"].add_argument("target", help="the .safetensors file to write")
    return parser


def _carry_out(arguments: argparse.Namespace) -> None:
    if arguments.verb in photographs.EXAMPLES:
        photographs.draw(arguments)
        return
    from zfnet import load_profile

    profile = load_profile(arguments.profile)
    if arguments.verb == "notebooks":
        print("\n".join(profile.notebooks))
    elif arguments.verb == "export":
        _export_net(profile, arguments.target)
    elif arguments.verb == "gallery":
        _write_gallery(profile, arguments.zip)
    else:
        from zfnet.store.distributed import is_first, together

        with together():
            done = _train_net(profile) if arguments.verb == "train" else _scan_images(profile)
            if is_first():
                print(done)


def _train_net(profile) -> str:
    from zfnet.training.run import train

    if profile.training is None or profile.model.weights:
        return (
            f"{profile.name}: nothing to train, the weights are"
            f" {profile.model.weights or 'downloaded'}"
        )
    meta = train(profile)
    return (
        f"{profile.name}: test accuracy {meta['test_accuracy']:.2%} (n = {meta['n_test']}), best"
        f" epoch {meta['epoch']}, trained in {meta['train_seconds']:.0f} s on {meta['device']}"
    )


def _export_net(profile, target: str) -> None:
    from zfnet.data.load import load_data
    from zfnet.training.export import export

    meta = export(profile, load_data(profile), target)
    print(
        f"{target}: {Path(target).stat().st_size / 1e6:.1f} MB; test accuracy of the centre crops"
        f" {meta['half_accuracy']:.2%}, in full precision {meta['accuracy']:.2%} (n ="
        f" {meta['n_test']})"
    )


def _write_gallery(profile, archive: bool) -> None:
    from zfnet.gallery import build

    path, made = build(profile, archive)
    print(f"{path}: {'made' if made else 'up to date'}")


def _scan_images(profile) -> str:
    from zfnet.data.load import load_data
    from zfnet.graph.trace import paper_layers
    from zfnet.methods.top_activations import load_scan
    from zfnet.training.run import trained

    data = load_data(profile)
    model = trained(profile, data)
    images = getattr(data, profile.scan_split)
    tables = load_scan(profile, model, images, list(paper_layers(model.features).values()))
    maps = sum(len(top.value) for top in tables.values())
    return (
        f"{profile.name}: top {next(iter(tables.values())).value.shape[1]} of {maps} feature maps"
        f" over {len(images)} {profile.scan_split} images"
    )
