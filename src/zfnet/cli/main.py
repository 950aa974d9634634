"""Pictures of your own images: `zfnet explain|occlude|top9 …`; and the steps behind the Makefile.

What is wrong with the input is said in one line; a bug shows its traceback.
"""

import argparse
import sys
import warnings
from pathlib import Path

from zfnet import load_data, load_model, load_profile, load_scan, paper_layers, train, trained
from zfnet.cli import evaluation, live, photographs
from zfnet.models.convert import convert
from zfnet.store import distributed
from zfnet.store.errors import UserError, typed
from zfnet.training.export import export
from zfnet.training.noise import noise, remark

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
        with warnings.catch_warnings():
            warnings.showwarning = _note
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


def _note(message: Warning, category: type[Warning], *place) -> None:
    """A warning in one line; what Python thinks of processes that fork, say, is nobody's here."""
    if issubclass(category, UserWarning):
        print(f"note: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zfnet", description=__doc__)
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from, whatever it is"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    photographs.add_verbs(verbs)
    live.add_verb(verbs)
    evaluation.add_verb(verbs)
    text = "write published weights, from the forms in which they are to be had, to one file"
    one = verbs.add_parser("convert", help=text, description=text[0].upper() + text[1:] + ".")
    one.add_argument("source", help="a file or a folder: docs/own_nets_and_data.md says of what")
    one.add_argument("target", help="the .safetensors file to write")
    one.add_argument("--model", metavar="NET", required=True, help="a profile's `model: name:`")
    for verb, text in STEPS.items():
        one = verbs.add_parser(verb, help=text, description=text)
        one.add_argument("profile", help="a name in profiles/, or a .yaml file")
        if verb == "gallery":
            packed = "also pack it to runs/PROFILE/gallery.zip"
            one.add_argument("--zip", action="store_true", help=packed)
        if verb == "export":
            one.add_argument("target", help="the .safetensors file to write")
    return parser


def _carry_out(arguments: argparse.Namespace) -> None:
    if arguments.verb in photographs.EXAMPLES:
        photographs.draw(arguments)
        return
    if arguments.verb == "evaluate":
        print(evaluation.report(arguments))
        return
    if arguments.verb == "convert":
        convert(arguments.source, arguments.target, arguments.model)
        print(f"{arguments.target}: {Path(arguments.target).stat().st_size / 1e6:.1f} MB")
        return
    if arguments.verb == "live":
        live.write(arguments)
        return
    profile = load_profile(arguments.profile)
    if arguments.verb == "notebooks":
        print("\n".join(profile.notebooks))
    elif arguments.verb == "export":
        meta = export(profile, load_data(profile), arguments.target)
        print(
            f"{arguments.target}: {Path(arguments.target).stat().st_size / 1e6:.1f} MB; test"
            f" accuracy of the centre crops {meta['half_accuracy']:.2%}, in full precision"
            f" {meta['accuracy']:.2%} (n = {meta['n_test']})"
        )
    elif arguments.verb == "gallery":
        from zfnet.gallery import build  # which draws

        path, made = build(profile, arguments.zip)
        print(f"{path}: {'made' if made else 'up to date'}")
    else:
        with distributed.together():
            done = _train_net(profile) if arguments.verb == "train" else _scan_images(profile)
            if distributed.is_first():
                print(done)


def _train_net(profile) -> str:
    if profile.training is None or profile.model.weights:
        return (
            f"{profile.name}: nothing to train, the weights are"
            f" {profile.model.weights or 'downloaded'}"
        )
    data = load_data(profile)
    meta = train(profile, data)

    def seen() -> str:
        device = distributed.default_device()
        return remark(noise(profile, data, load_model(profile).to(device)))

    return (
        f"{profile.name}: test accuracy {meta['test_accuracy']:.2%} (n = {meta['n_test']}), best"
        f" epoch {meta['epoch']}, trained in {meta['train_seconds']:.0f} s on {meta['device']}"
        f"\n{distributed.from_first(seen)}".rstrip()
    )


def _scan_images(profile) -> str:
    data = load_data(profile)
    model, images = trained(profile, data), getattr(data, profile.scan_split)
    top = load_scan(profile, model, images, list(paper_layers(model).values()))
    maps = sum(len(each.value) for each in top.values())
    return (
        f"{profile.name}: top {next(iter(top.values())).value.shape[1]} of {maps} feature maps over"
        f" {len(images)} {profile.scan_split} images"
    )
