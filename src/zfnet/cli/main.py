"""Pictures of your own images: `python -m zfnet explain|occlude|top9 …`; and the steps behind the
Makefile. Errors are one line, not a traceback.
"""

from __future__ import annotations

import argparse
import sys

from zfnet.cli import photographs as commands


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m zfnet", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    commands.add(verbs)
    for verb, text in {
        "train": (
            "train the profile's net (nothing to do when it is trained already, or pretrained)"
        ),
        "scan": "find the top activations of all feature maps of layers 1-5",
        "notebooks": "print the notebooks that apply to the profile, one per line",
    }.items():
        verbs.add_parser(verb, help=text, description=text).add_argument(
            "profile", help="a name in profiles/, or a .yaml file"
        )
    text = (
        "write the static site of all feature maps, runs/PROFILE/gallery/index.html, unless it is"
        " there and current"
    )
    site = verbs.add_parser("gallery", help=text, description=text)
    site.add_argument("profile", help="a name in profiles/, or a .yaml file")
    site.add_argument("--zip", action="store_true", help="also pack it to runs/PROFILE/gallery.zip")
    give = verbs.add_parser(
        "export", help="write the trained net to one small file that other profiles can read"
    )
    give.add_argument("profile", help="a name in profiles/, or a .yaml file")
    give.add_argument("target", help="the .safetensors file to write")
    text = "write the README's tables anew, from Figures/, the notebooks and their times"
    verbs.add_parser("results", help=text, description=text)
    text = (
        "keep what the profile's notebooks took in the last `make figures`, for the README:"
        " benchmarks/notebooks.json"
    )
    verbs.add_parser("times", help=text, description=text).add_argument(
        "profile", help="a name in profiles/, or a .yaml file"
    )
    clean = verbs.add_parser("clean", help="strip an executed notebook for committing")
    clean.add_argument("source", help="executed notebook")
    clean.add_argument(
        "target", nargs="?", help="where the cleaned one goes; in place when left out"
    )
    arguments = parser.parse_args(argv)
    try:
        _do(arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is finished", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        # a signal's error, raised wherever the program was just then
        if str(error).startswith("DataLoader worker"):
            from zfnet.data.files import KILLED

            print(f"error: {KILLED}", file=sys.stderr)
            return 1
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        reason = (str(error).splitlines() or ["no more is to be had"])[0]
        print(
            f"error: not enough memory ({reason}): lower `data: size:`, `resize:`, `count:`,"
            " `model: maps:` or `batch_size:` in the profile",
            file=sys.stderr,
        )
        return 1
    return 0


def _do(arguments: argparse.Namespace) -> None:
    if arguments.verb == "clean":
        from tools.clean_notebook import clean as strip

        strip(arguments.source, arguments.target or arguments.source)
        return
    if arguments.verb == "results":
        from tools.results import write

        print("README.md: " + ("written anew" if write() else "nothing to change"))
        return
    if arguments.verb in commands.EXAMPLES:
        commands.run(arguments)
        return
    from zfnet.store.profiles import load_profile

    profile = load_profile(arguments.profile)
    if arguments.verb == "notebooks":
        print("\n".join(profile.notebooks))
    elif arguments.verb == "times":
        from tools.contents import record_times

        times = record_times(profile)
        print(
            f"{profile.name}: {sum(times.values()) / 60:.0f} minutes for {len(profile.notebooks)}"
            " notebooks" + " and the training" * ("training" in times)
        )
    elif arguments.verb == "export":
        _export(profile, arguments.target)
    elif arguments.verb == "gallery":
        _gallery(profile, arguments.zip)
    else:
        from zfnet.store.distributed import is_first, together

        with together():
            done = _train(profile) if arguments.verb == "train" else _scan(profile)
            if is_first():
                print(done)


def _train(profile) -> str:
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


def _export(profile, target: str) -> None:
    from pathlib import Path

    from zfnet.data.load import load_data
    from zfnet.training.export import export

    meta = export(profile, load_data(profile), target)
    print(
        f"{target}: {Path(target).stat().st_size / 1e6:.1f} MB; test accuracy of the centre crops"
        f" {meta['half_accuracy']:.2%}, in full precision {meta['accuracy']:.2%} (n ="
        f" {meta['n_test']})"
    )


def _gallery(profile, archive: bool) -> None:
    from zfnet.gallery import build

    path, made = build(profile, archive)
    print(f"{path}: {'made' if made else 'up to date'}")


def _scan(profile) -> str:
    from zfnet.data.load import load_data
    from zfnet.graph.layers import paper_layers
    from zfnet.methods.top_activations import load_scan
    from zfnet.training.run import trained

    data = load_data(profile)
    model = trained(profile, data)
    images = getattr(data, profile.scan_split)
    found = load_scan(profile, model, images, list(paper_layers(model.features).values()))
    maps = sum(len(top.value) for top in found.values())
    return (
        f"{profile.name}: top {next(iter(found.values())).value.shape[1]} of {maps} feature maps"
        f" over {len(images)} {profile.scan_split} images"
    )
