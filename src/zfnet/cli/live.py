"""`zfnet live`: a page that takes nets apart in the browser."""

import argparse
from pathlib import Path

from zfnet.models.named import load_net
from zfnet.store.errors import require

TEXT = (
    "write a page that takes nets apart in the browser, from one file and without Python:"
    " runs/live/index.html"
)
EXAMPLES = """\
examples
  zfnet live                                        SqueezeNet and the ZFNet that comes along
  zfnet live --model resnet18 --out resnet18.html   a net of torchvision
  zfnet live --model squeezenet --model my_nets:small
"""


def add_verb(verbs) -> None:
    """Add the verb to an argument parser's subparsers."""
    one = verbs.add_parser(
        "live",
        help=TEXT,
        description=TEXT[0].upper() + TEXT[1:] + ".",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    nets = "a net, as for `zfnet explain`; several may be named, one after the other"
    one.add_argument("--model", metavar="NET", action="append", help=nets)
    weights = "a local .safetensors or .pth file for the one net that is named"
    one.add_argument("--weights", metavar="FILE", help=weights)
    out = "the page to write; default: runs/live/index.html"
    one.add_argument("--out", metavar="FILE", type=Path, help=out)
    runtime = "the .tgz of the pinned onnxruntime-web; default: npm fetches it once, to data/"
    one.add_argument("--runtime", metavar="FILE", type=Path, help=runtime)


def write(arguments: argparse.Namespace) -> None:
    """Write the page that the parsed arguments ask for, and say what it holds."""
    models = arguments.model or []
    require(
        arguments.weights is None or len(models) == 1,
        "--weights is of one net: name that with --model, and no other",
    )
    from zfnet.site.build import NETS, build

    nets = [load_net(name, arguments.weights, device="cpu") for name in models or NETS]
    made = build(nets, arguments.out, arguments.runtime)
    print(f"{made.path}: {made.size / 1e6:.1f} MB")
    for title, change in made.rounding.items():
        print(f"{title}: half precision changes a probability by {change:.1g} at most")
