"""Everything that claims to be fast, beside what others use, in one run: `make bench`.

Ours and the peer take turns on the same input; the medians are compared. ratio = peer's time /
ours; error = relative L2 difference of the results in float32. Where two values of a pooling window
differ by less than rounding, float32 decides by chance which is the larger, in any implementation:
a projection through such a switch moves. Those units (float32 and float64 disagree, of ours or of
the peer's) are counted, `undecided`, and left out of the error; `error_float64` is of all units.

Writes benchmarks/results.json (one list for all devices; a device's own rows are replaced) and the
table in docs/speed.md.

    python -m benchmarks.run                 # 12 minutes on 2 cores
    python -m benchmarks.run --only scan     # the groups whose name contains this
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.io import encode_jpeg, write_file

from benchmarks import peers
from tools.sections import write_sections
from zfnet import (
    Deconvnet,
    ZFNet,
    build_model,
    load_data,
    load_profile,
    occlude,
    paper_layers,
    receptive_field,
    scan,
)
from zfnet.data import shapes
from zfnet.data.images import Images, batches, random_crops
from zfnet.graph.trace import trace
from zfnet.graph.walk import outputs
from zfnet.store import artefacts, distributed
from zfnet.training import run

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "speed.md"
DEVICE = distributed.default_device()  # in full float32, the peers too
WHAT = {
    "project.conv": "project 32 units of layer {}, ZFNet at 224 px",
    "project.vgg19.block": "project 8 units of block {}, VGG19 at 224 px",
    "project.branched.": "project 8 units of {}, 224 px",
    "top9.all": "project the top 9 of every 16th of the 1,376 maps",
    "scan.overhead": "scan of five layers",
    "scan.branched.": "scan of {}, one layer for each size of maps",
    "occlude.branched.": "occlude, {} at 224 px, square x stride 16x4",
    "occlude.vgg16.": "occlude, VGG16 at 224 px, square x stride {}",
    "occlude.": "occlude, ZFNet at 224 px, square x stride {}",
    "fields.resnet18": "receptive fields of all layers of ResNet18",
    "train.step": "train 16 steps of 32 images at 112 px",
    "train.loop": "train an epoch of the demo",
    "scan.memory": "peak memory of a scan of 10,000 images",
}


def seconds(run: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 3
) -> tuple[float, float]:
    """Median seconds of either, taking turns, after a first time that does not count; the short
    ones several times a turn.
    """
    runs = ours, theirs
    turns = [min(8, max(1, round(0.5 / seconds(each)))) for each in runs]
    times = [[], []]
    for _ in range(rounds):
        for each, turn, found in zip(runs, turns, times, strict=True):
            found += [seconds(each) for _ in range(turn)]
    return statistics.median(times[0]), statistics.median(times[1])


def row(name: str, ours_s: float, peer: str, peer_s: float, error: float | None) -> dict:
    machine = (
        torch.cuda.get_device_name()
        if DEVICE.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return {
        "name": name,
        "ours_s": round(ours_s, 5),
        "peer": peer,
        "peer_s": round(peer_s, 5),
        "ratio": round(peer_s / ours_s, 2),
        "error": error,
        "device": machine,
        "torch": torch.__version__,
    }


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(f"{float((found - expected).norm() / expected.norm()):.1e}")


def exactness(
    ours: Callable[[torch.dtype], torch.Tensor], theirs: Callable[[torch.dtype], torch.Tensor]
) -> dict:
    """error, undecided and error_float64 of two projections (N, 3, H, W), each made in the type
    that it is given.
    """
    single, double = (
        [run(kind).double() for run in (ours, theirs)] for kind in (torch.float32, torch.float64)
    )

    def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).flatten(1).norm(dim=1) > 1e-5 * b.flatten(1).norm(dim=1)

    decided = ~(apart(single[0], double[0]) | apart(single[1], double[1]))
    of = {
        "error": relative(single[0][decided], single[1][decided]),
        "undecided": f"{int((~decided).sum())} of {len(decided)}",
    }
    return of | {"error_float64": relative(*double)}


@functools.cache
def photos(count: int, side: int) -> torch.Tensor:
    """Network inputs (count, 3, side, side): drawn objects, normalised."""
    pixels = shapes.make_shapes(count, side).images.float()
    return ((pixels - 120) / 60).to(DEVICE)


def zfnet() -> nn.Module:
    torch.manual_seed(0)
    return ZFNet().eval().to(DEVICE)


def units(
    features: nn.Module, layer: str, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random firing unit of each image, the first ones at the corners of the map where one fires
    there.
    """
    maps = Deconvnet(features).activations(images, layer).cpu()
    generator, found = torch.Generator().manual_seed(0), []
    for n, one in enumerate(maps):
        firing = one > 0
        corner = torch.zeros_like(firing)
        corner[:, 0 if n % 2 else -1, 0 if n // 2 % 2 else -1] = True
        wanted = firing & corner if n < 4 and (firing & corner).any() else firing
        choices = wanted.nonzero()
        found.append(choices[torch.randint(len(choices), (), generator=generator)])
    found = torch.stack(found).to(images.device)
    return found[:, 0], found[:, 1:]


def projections(
    model: nn.Module, images: torch.Tensor, layers: dict[str, str], rounds: int
) -> Iterator[dict]:
    nets = {torch.float32: model, torch.float64: copy.deepcopy(model).double()}
    deconvnet = Deconvnet(model.features)
    for name, layer in layers.items():
        channel, position = units(model.features, layer, images)
        ours = functools.partial(deconvnet.project, images, layer, channel, position)
        theirs = functools.partial(peers.captum_projection, model, layer, images, channel, position)
        times = side_by_side(ours, theirs, rounds)

        def mine(kind, layer=layer, unit=(channel, position)):
            return Deconvnet(nets[kind].features).project(images, layer, *unit)

        def captums(kind, layer=layer, unit=(channel, position)):
            activation = Deconvnet(nets[kind].features).activations(images, layer)[
                torch.arange(len(images)), unit[0], *unit[1].unbind(1)
            ]
            return (
                peers.captum_projection(nets[kind], layer, images.to(kind), *unit)
                * activation[:, None, None, None]
            )

        yield row(name, times[0], "captum NeuronDeconvolution", times[1], None) | exactness(
            mine, captums
        )


def project_zfnet() -> Iterator[dict]:
    model = zfnet()
    yield from projections(
        model, photos(32, 224), {f"project.conv{n}": f"relu{n}" for n in range(1, 6)}, 3
    )


def project_vgg19() -> Iterator[dict]:
    torch.manual_seed(0)
    model = torchvision.models.vgg19(weights=None).eval().to(DEVICE)
    layers = paper_layers(model.features)
    yield from projections(
        model, photos(8, 224), {f"project.vgg19.block{n}": layers[n] for n in range(1, 5)}, 2
    )


def top9() -> Iterator[dict]:
    """The nine strongest of every 16th map of all five layers, over 500 images: 774 units, a map's
    nine a batch, as the figures draw them.
    """
    model, inputs = zfnet(), photos(500, 224)
    layers = paper_layers(model.features)
    dataset = torch.utils.data.TensorDataset(inputs.cpu(), torch.zeros(len(inputs)))
    top = scan(model.features, dataset, list(layers.values()))
    deconvnet = Deconvnet(model.features)

    def tasks():
        for layer in layers.values():
            found = top[layer]
            for channel in range(0, len(found.value), 16):
                yield (
                    inputs[found.image[channel]],
                    layer,
                    channel,
                    torch.stack([found.row, found.col], 2)[channel],
                )

    def ours():
        for images, layer, channel, position in tasks():
            deconvnet.project_patches(images, layer, channel, position)

    def theirs():
        for images, layer, channel, position in tasks():
            peers.plain_projection(
                model.features, layer, images, torch.full((9,), channel), position
            )

    nets, some = (
        {
            torch.float32: model.features,
            torch.float64: copy.deepcopy(model.features).double(),
        },
        list(tasks())[::14],
    )

    def mine(kind):
        return torch.cat([Deconvnet(nets[kind]).project(images, *unit) for images, *unit in some])

    def plain(kind):
        every = (
            (layer, images.to(kind), torch.full((9,), channel), position)
            for images, layer, channel, position in some
        )
        return torch.cat([peers.plain_projection(nets[kind], *one) for one in every])

    of = exactness(mine, plain)  # warms both up, too
    yield (
        row(
            "top9.all",
            seconds(ours),
            "full-image reverse pass, batches of 9",
            seconds(theirs),
            None,
        )
        | of
    )


def scan_overhead() -> Iterator[dict]:
    model, inputs = zfnet(), photos(500, 224)[:128]
    layers = list(paper_layers(model.features).values())
    dataset = torch.utils.data.TensorDataset(inputs.cpu(), torch.zeros(len(inputs)))

    def bare():
        with torch.no_grad():
            for _, images in batches(dataset, 64):
                model.features[:12](images.to(DEVICE).contiguous(memory_format=torch.channels_last))

    ours_s, bare_s = side_by_side(lambda: scan(model.features, dataset, layers), bare, 5)
    x, error, found = (
        inputs.contiguous(memory_format=torch.channels_last),
        0.0,
        scan(model.features, dataset, layers, batch_size=128),
    )
    for name, maps in outputs(model.features, x, layers).items():
        best = maps.amax((2, 3)).T.topk(9).values.cpu()
        error = max(error, float((best - found[name].value).abs().max()))
    yield row("scan.overhead", ours_s, "bare forward pass in the same layout", bare_s, error)


def occlusion() -> Iterator[dict]:
    model, image = zfnet(), photos(32, 224)[4]
    for size in (16, 32, 64):
        occlude(model, image, 0, size, 8)
        times, theirs = [], []
        for perturbations in (16, 64, 256):
            square = model, image, 0, size, 8
            times.append(seconds(functools.partial(occlude, *square)))
            peer = functools.partial(peers.captum_occlusion, *square, perturbations)
            theirs.append(seconds(peer))
        found, expected = (
            occlude(model, image, 0, size, 8, incremental=way).logits for way in (None, False)
        )
        yield row(
            f"occlude.{size}x8",
            statistics.median(times),
            "captum Occlusion, best of 16, 64, 256 a pass",
            min(theirs),
            relative(found, expected),
        )
    torch.manual_seed(0)
    model = torchvision.models.vgg16(weights=None).eval().to(DEVICE)
    found = {}

    def run(incremental):
        found[incremental] = occlude(model, image, 0, 16, 16, incremental=incremental).logits

    full_s = seconds(lambda: run(False))  # half a minute on a CPU: once
    ours_s = statistics.median(seconds(lambda: run(None)) for _ in range(3))
    yield row(
        "occlude.vgg16.16x16",
        ours_s,
        "our own full pass, batches of 128",
        full_s,
        relative(found[None], found[False]),
    )


def convolutions(model: nn.Module, images: torch.Tensor) -> float:
    """Seconds that the convolutions of a training step take by themselves, forward and backward:
    below that no loop around them can go.
    """
    total, x = 0.0, images
    for layer in model.features:
        with torch.no_grad():
            below, x = x, layer(x)
        if isinstance(layer, nn.Conv2d):
            below, above = below.clone().requires_grad_(layer.in_channels > 3), torch.randn_like(x)

            def both_ways(layer=layer, below=below, above=above):
                layer(below).backward(above)

            total += statistics.median(seconds(both_ways) for _ in range(7))
    return total


@functools.cache
def branched(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **options).eval().to(DEVICE)


def project_branched() -> Iterator[dict]:
    """Windows against our own pass over whole images, which is the oracle's to rounding."""
    layers = {
        "resnet18": [f"layer{n}.1.relu:2" for n in range(1, 5)],
        "googlenet": ["inception3b.cat", "inception4e.cat"],
        "squeezenet1_1": ["4.cat", "12.cat"],
    }
    images = photos(8, 224)
    for name, chosen in layers.items():
        model = branched(name)
        for layer in chosen:
            deconvnet, unit = Deconvnet(model), units(model, layer, images)
            ours, whole = (
                functools.partial(deconvnet.project, images, layer, *unit, windows=windows)
                for windows in (None, False)
            )
            times = side_by_side(ours, whole)

            def single(kind, windows, model=model, layer=layer, unit=unit):
                net = copy.deepcopy(model).to(kind)
                return Deconvnet(net).project(images, layer, *unit, windows=windows)

            exact = exactness(
                functools.partial(single, windows=None), functools.partial(single, windows=False)
            )
            label = f"project.branched.{name} {layer}"
            yield row(label, times[0], "our own whole pass", times[1], None) | exact


def scan_branched() -> Iterator[dict]:
    inputs = photos(64, 224)
    dataset = torch.utils.data.TensorDataset(inputs.cpu(), torch.zeros(len(inputs)))
    for name in ("resnet18", "googlenet"):
        model = branched(name)
        layers = list(paper_layers(model).values())

        def bare(model=model):
            with torch.no_grad():
                for _, images in batches(dataset, 64):
                    model(images.to(DEVICE).contiguous(memory_format=torch.channels_last))

        ours_s, bare_s = side_by_side(functools.partial(scan, model, dataset, layers), bare)
        yield row(f"scan.branched.{name}", ours_s, "bare forward pass, same layout", bare_s, None)


def occlude_branched() -> Iterator[dict]:
    image = photos(32, 224)[4]
    for name in ("googlenet", "squeezenet1_1", "resnet18", "densenet121"):
        net, found = branched(name), {}

        def run(incremental, model=net, found=found):
            found[incremental] = occlude(model, image, 0, 16, 4, incremental=incremental).logits

        full_s, ours_s = (seconds(functools.partial(run, way)) for way in (False, None))
        yield row(
            f"occlude.branched.{name}",
            ours_s,
            "our own full pass, batches of 128",
            full_s,
            relative(found[None], found[False]),
        )


def receptive_fields() -> Iterator[dict]:
    graph = trace(branched("resnet18"))
    names = [name for name in graph.names if not graph.nodes[graph.number(name)].global_]
    times = side_by_side(
        lambda: [receptive_field(graph, name, 224) for name in names],
        lambda: trace(graph.model),
    )
    yield row("fields.resnet18", times[0], "tracing the net", times[1], None)


def train_step() -> Iterator[dict]:
    profile = load_profile("demo")
    drawn, photographs = shapes.make_shapes(512, 120), shapes.make_shapes(512, 300)
    size, batch, count = 112, 32, 16
    mean, std = (torch.full((3, 1, 1), value) for value in (120.0, 60.0))
    images = Images(drawn.images, drawn.labels, shapes.CLASSES, size, mean, std, profile.data.gain)
    profile = dataclasses.replace(profile, data=dataclasses.replace(profile.data, size=size))
    model, plain = (build_model(profile, 10).to(DEVICE) for _ in range(2))
    model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), 1e-4, 0.9, weight_decay=5e-4)

    def ours():
        generator = torch.Generator().manual_seed(0)
        model.train()
        for indices in torch.randperm(512, generator=generator).split(batch):
            inputs = images.normalise(random_crops(drawn.images, indices, size, generator)).to(
                DEVICE
            )
            run.train_step(
                model,
                optimiser,
                inputs.contiguous(memory_format=torch.channels_last),
                drawn.labels[indices].to(DEVICE),
                0.1,
            )

    with tempfile.TemporaryDirectory() as folder:
        for n, picture in enumerate(photographs.images):
            write_file(f"{folder}/{n:04d}.jpg", encode_jpeg(picture, 92))
        files = peers.Files(Path(folder), photographs.labels, 120, size)
        loader = torch.utils.data.DataLoader(files, batch, shuffle=True)
        times = side_by_side(ours, lambda: peers.plain_training(plain, loader, 1e-4, count), 3)
        ours()
        inputs = images.batch(range(batch)).to(DEVICE).contiguous(memory_format=torch.channels_last)
        floor = round(count * convolutions(model, inputs), 5)
    yield row(
        "train.step", times[0], "plain NCHW loop, PIL DataLoader on 300 px files", times[1], None
    ) | {"floor_s": floor}


def train_loop() -> Iterator[dict]:
    """An epoch as `train` runs it, crops, validation, snapshot and checkpoint included, against its
    optimiser steps alone on inputs made beforehand.
    """
    profile = load_profile("demo")
    data = load_data(profile)
    # testing is not part of an epoch
    data = dataclasses.replace(data, test=data.test.subset(torch.arange(10)))
    with tempfile.TemporaryDirectory() as folder:
        recipe = dataclasses.replace(
            profile.training,
            epochs=1,
            schedule="constant",
            snapshots=(64,),
            ten_crop=False,
            lr=1e-4,
        )
        one = dataclasses.replace(profile, name=folder, training=recipe)
        model = build_model(one, 10).to(DEVICE, memory_format=torch.channels_last)
        batch = one.training.batch_size
        inputs = (
            data.train.batch(range(batch)).to(DEVICE).contiguous(memory_format=torch.channels_last)
        )
        labels = data.train.labels[:batch].to(DEVICE)
        count = len(data.train) // batch
        optimiser = run.optimisation(model, one.training, count)[0]

        def bare():
            model.train()
            for _ in range(count):
                run.train_step(model, optimiser, inputs, labels, 0.1)

        few = dataclasses.replace(one, name=f"{folder}/few")
        # imports, once a process
        run.train(
            few,
            dataclasses.replace(data, train=data.train.subset(torch.arange(2 * batch))),
            progress=False,
        )
        times = []
        for _ in range(2):
            one.weights_file.unlink(missing_ok=True)
            times.append((seconds(lambda: run.train(one, data, progress=False)), seconds(bare)))
        ours_s, bare_s = (statistics.median(column) for column in zip(*times, strict=True))
    yield row("train.loop", ours_s, "bare optimiser steps", bare_s, None)


class Drawn(torch.utils.data.Dataset):
    """Random images that take no memory."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index >= self.count:
            raise IndexError(index)
        return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index)), 0


def peak(count: int) -> None:
    """Scan `count` images and print this process's peak memory in MiB."""
    torch.manual_seed(0)
    features = ZFNet(10, input_size=64, fc=()).eval().features
    scan(features, Drawn(count), list(paper_layers(features).values()))
    print(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**10 if sys.platform == "linux" else 2**20)
    )


def scan_memory() -> Iterator[dict]:
    """The ratio here is of MiB: 10,000 images' over 1,000 images'."""
    used = {
        n: float(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.run", "--peak", str(n)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for n in (1_000, 10_000)
    }
    entry = row(
        "scan.memory",
        used[1_000],
        "peak MiB at 10,000 images over that at 1,000",
        used[10_000],
        None,
    )
    yield entry | {"ours_s": None, "peer_s": None}


GROUPS = (
    project_zfnet,
    project_vgg19,
    top9,
    scan_overhead,
    occlusion,
    project_branched,
    scan_branched,
    occlude_branched,
    receptive_fields,
    train_step,
    train_loop,
    scan_memory,
)


def table(rows: list[dict]) -> str:
    """A device's rows as Markdown."""
    lines = ["| what | peer | peer's time | ours | ratio | error |", "|---|---|---|---|---|---|"]

    def shown(value: float | None) -> str:
        return (
            "–" if value is None else f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value:.2f} s"
        )

    for r in rows:
        what, text = next((stem, text) for stem, text in WHAT.items() if r["name"].startswith(stem))
        error = "–" if r["error"] is None else f"{r['error']:.0e}" if r["error"] else "0"
        if not r.get("undecided", "0 ").startswith("0 "):
            error += f", {r['undecided']} undecided"
        digits = 0 if r["ratio"] >= 100 else 1 if r["ratio"] >= 10 else 2
        cells = (
            text.format(r["name"].removeprefix(what)),
            r["peer"],
            shown(r["peer_s"]),
            shown(r["ours_s"]),
            f"{r['ratio']:.{digits}f}",
            error,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(rows: list[dict]) -> str:
    """A table per device, and what it was measured with."""
    parts = []
    for machine in dict.fromkeys(r["device"] for r in rows):
        own = [r for r in rows if r["device"] == machine]
        versions = sorted({r["torch"] for r in own})
        double = [r["error_float64"] for r in own if r.get("error_float64") is not None]
        exact = (
            f"; the largest error in float64, over all units: {max(double):.0e}" if double else ""
        )
        floor = "".join(
            f" Of our {r['ours_s']:.2f} s of training steps the convolutions alone take"
            f" {r['floor_s']:.2f} s."
            for r in own
            if "floor_s" in r
        )
        parts.append(
            f"Measured on {machine}, torch {', '.join(versions)}{exact}.\n\n{table(own)}"
            + (f"\n\n{floor.strip()}" if floor else "")
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the groups whose name contains this")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return peak(arguments.peak)
    started, rows = time.perf_counter(), json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    groups = [group for group in GROUPS if arguments.only in group.__name__]
    if not groups:
        parser.error(
            f"no group contains {arguments.only!r}: {', '.join(group.__name__ for group in GROUPS)}"
        )
    for group in groups:
        for new in group():
            print(
                f"{time.perf_counter() - started:5.0f} s  {new['name']:24s} ours {new['ours_s']} "
                f" peer {new['peer_s']}  ratio {new['ratio']}  error {new['error']}",
                flush=True,
            )
            same = [
                n
                for n, old in enumerate(rows)
                if (old["name"], old["device"]) == (new["name"], new["device"])
            ]
            if same:
                rows[same[0]] = new
            else:
                rows.append(new)
            rows.sort(
                key=lambda r: (
                    r["device"],
                    next(n for n, stem in enumerate(WHAT) if r["name"].startswith(stem)),
                    r["name"],
                )
            )
            with artefacts.atomic(RESULTS) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n")
    write_sections(PAGE, {"make bench": report(rows)})
    print(f"\n{report(rows)}")


if __name__ == "__main__":
    main()
