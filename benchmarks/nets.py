"""Which of torchvision's classifiers can be taken apart, and how exactly: docs/nets.md.

    python -m benchmarks.nets                # all of them: some minutes on 2 cores
    python -m benchmarks.nets --only resnet  # those whose name contains this; the others' rows stay

Each net has random weights and batch norms that do something, in float64. Five rectified layers
each are projected, their strongest unit and one at the border, by windows and as a whole, and
compared with plain autograd in which every ReLU has the deconvnet's backward pass.
"""

import argparse
import functools

import torch
import torchvision

from tests.helpers import oracle
from tools.sections import write_sections
from zfnet import Deconvnet, receptive_field
from zfnet.graph.trace import trace
from zfnet.store.errors import Unsupported
from zfnet.store.profiles import ROOT

PAGE = ROOT / "docs" / "nets.md"
SIDE = 80


LARGEST = 100e6  # parameters of a net that is measured, and not only followed


def measured(name: str) -> tuple[str, str]:
    """(the largest relative error over the layers, which layers), or ("", why it is refused)."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    make = functools.partial(torchvision.models.get_model, name, weights=None, **options)
    try:
        with torch.device("meta"):  # no numbers are needed to know the operations
            net = make().eval()
    except NotImplementedError:  # a net whose own code needs numbers
        net = make().eval()
    try:
        graph, known = trace(net), dict(net.named_modules())
        found: dict[str, list[str]] = {"relu": [], "norm": []}
        for node in graph.way_down(graph.last or len(graph.nodes) - 1):
            node.required()
            for full in (node.name, f"features.{node.name}"):
                if node.kind in found and full.partition(":")[0] in known:
                    found[node.kind].append(full)
        if not any(found.values()):  # no way down from the output: say what stands in it
            for node in graph.nodes:
                node.required()
        named = found["relu"] or found["norm"]  # where ReLUs are functions, what they rectify
    except Unsupported as error:
        return "", str(error).partition(":")[0]
    if sum(parameter.numel() for parameter in net.parameters()) > LARGEST:
        return "not measured", "every operation has a rule; more than 100 million parameters"
    torch.manual_seed(0)
    net, worst, used = oracle.lively(make()), 0.0, []
    deconvnet, image = Deconvnet(net), torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    for layer in dict.fromkeys(named[n * (len(named) - 1) // 4] for n in range(5)):
        maps = deconvnet.activations(image, layer)[0]
        strongest = tuple(map(int, torch.unravel_index(maps.argmax(), maps.shape)))
        border = int(maps[:, 0, -1].argmax()), 0, maps.shape[2] - 1
        used.append(layer)
        local = deconvnet.graph.local(deconvnet.graph.number(layer))
        # a window many times as large as the image would be computed for nothing
        local = local and receptive_field(net, layer, SIDE).size[0] <= 4 * SIDE
        for unit in dict.fromkeys((strongest, border)):
            expected = oracle.project(net, image, layer, unit, "deconvnet")
            for windows in ((True, False) if local else (False,)) if expected.any() else ():
                found = deconvnet.project(image, layer, unit[0], unit[1:], windows=windows)
                worst = max(worst, float((found - expected).norm() / expected.norm()))
    return f"{worst:.0e}", ", ".join(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="nets whose name contains this")
    only = parser.parse_args().only
    names = torchvision.models.list_models(module=torchvision.models)
    before = (line for line in PAGE.read_text().splitlines() if line.startswith("| `"))
    rows = {line.split("`")[1]: line for line in before}
    for name in (name for name in names if only in name):
        error, text = measured(name)
        print(f"{name:24s} {error or 'refused'}  {text}", flush=True)
        rows[name] = f"| `{name}` | {error or '–'} | {text} |"
        shown = [rows[each] for each in names if each in rows]
        refused = [line for line in shown if line.split(" | ")[1] == "–"]
        exact = [line for line in shown if line not in refused]
        lines = [f"{len(exact)} nets are taken apart, {len(refused)} refused by name."]
        lines += ["", "| net | largest error | layers compared |", "|---|---|---|", *exact]
        lines += ["", "| refused | | what has no rule |", "|---|---|---|", *refused]
        write_sections(PAGE, {"nets": "\n".join(lines)})


if __name__ == "__main__":
    main()
