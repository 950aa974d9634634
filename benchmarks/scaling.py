"""What a large data set costs on this machine: decoding, training and scanning in images a second,
alone and by two processes.

    python -m benchmarks.scaling FOLDER      # some minutes

FOLDER holds photographs as ImageNet's does: train/CLASS/image and val/CLASS/image.
Writes benchmarks/scaling.json and the tables of docs/scaling.md: what was measured, and what
follows from it, or from stated assumptions, for other machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from tools.sections import write_sections
from zfnet import Profile, ZFNet, load_data, paper_layers, scan
from zfnet.data.files import Files, _ahead, list_images
from zfnet.graph.forward import forward
from zfnet.store import profiles, provenance
from zfnet.store.distributed import averaged, default_device, share, together
from zfnet.training.run import train_step

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "scaling.md"
BATCH, STEPS = 32, 6
IMAGES = 1.28e6  # of ImageNet
# assumed, not measured: sustained FLOP/s; GPUs a node; bytes/s within it, and between nodes
GPU = {"flops": 50e12, "node": 8, "link": 300e9, "network": 25e9}


def decoding(profile: Profile) -> float:
    """Images a second that the worker processes decode to 256 px."""
    files = Files(profile.data_root, list_images(profile.data_root), profile.data.resize)
    parts = torch.arange(len(files)).split(32)
    ahead = _ahead(files.read, parts)
    next(ahead)  # the workers have started
    started = time.perf_counter()
    return sum(len(pixels) for pixels, _ in ahead) / (time.perf_counter() - started)


def training() -> float:
    """Images a second in training steps of the full ZFNet at 224 px with 1,000 classes, over all
    processes; images lie in memory.
    """
    device = default_device()
    net = ZFNet(1000, lrn="after").to(device, memory_format=torch.channels_last).train()
    whole = averaged(net, forward)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    images = torch.randn(BATCH, 3, 224, 224, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(1000, (BATCH,), device=device)
    for step in range(STEPS + 2):
        if step == 2:
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
        train_step(whole, optimiser, images, labels, 0.1)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return share()[1] * BATCH * STEPS / (time.perf_counter() - started)


def scanning(profile: Profile) -> float:
    """Images a second of a scan of all five layers, decoding included."""
    images = load_data(profile).test
    features = ZFNet(1000, lrn="after").eval().to(default_device()).features
    layers = list(paper_layers(features).values())
    started = time.perf_counter()
    scan(features, images, layers)
    return len(images) / (time.perf_counter() - started)


def by_two(threads: int) -> float:
    """`training` by two processes with half of the cores each."""
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "benchmarks.scaling",
        "--training",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // 2))}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=HERE.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def flops() -> float:
    """Floating point operations of one image's forward pass; a multiplication and an addition are
    two.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ZFNet(1000)(torch.zeros(1, 3, 224, 224))
    return float(counter.get_total_flops())


def hours(images: float, step: int, flop: float, gpus: int, gradient: float) -> tuple[float, float]:
    """Hours of arithmetic, and of exchanging gradients, for so many images in steps of `step`
    images a GPU, by the assumptions of `GPU`.
    """
    link = GPU["link"] if gpus <= GPU["node"] else GPU["network"]
    exchange = 2 * (gpus - 1) / gpus * gradient / link
    return images * flop / gpus / GPU["flops"] / 3600, images / (step * gpus) * exchange / 3600


def report(found: dict) -> str:
    """The two tables of docs/scaling.md."""

    def of(rate):
        return f"{found[rate]:.0f} images/s"

    rows = [
        "| on this machine | measured |",
        "|---|---|",
        f"| decoding photographs to 256 px, all cores | {of('decode_per_s')} |",
        (
            f"| training ZFNet at 224 px, batches of {BATCH} in memory, one process |"
            f" {of('train_per_s')} |"
        ),
    ]
    if "train_by_two_per_s" in found:
        rows.append(
            f"| the same by two processes, half of the cores each | {of('train_by_two_per_s')} |"
        )
    rows += [
        f"| scanning layers 1-5, decoding included | {of('scan_per_s')} |",
        "",
        (
            f"{found['device']}, {found['threads']} threads, torch {found['torch']}; n = 1 run;"
            f" commit {found['commit']}."
        ),
        "",
        (
            "| | training, 70 epochs: arithmetic + exchange | scan of 1.28 million images:"
            " arithmetic | processor cores that decode fast enough to scan so |"
        ),
        "|---|---|---|---|",
        (
            f"| this machine, at the rates above | {70 * IMAGES / found['train_per_s'] / 3600:.0f}"
            f" h | {IMAGES / found['scan_per_s'] / 3600:.1f} h | – |"
        ),
    ]
    each = found["decode_per_s"] / found["threads"]
    for gpus in (1, 8, 64):
        arithmetic, exchange = hours(
            70 * IMAGES, 128, 3 * found["flops"], gpus, 4 * found["parameters"]
        )
        scan_hours = hours(IMAGES, 128, found["flops"], gpus, 0)[0]
        cores = IMAGES / scan_hours / 3600 / each
        rows.append(
            f"| {gpus} GPU{'s' * (gpus > 1)}, estimated | {arithmetic:.2f} + {exchange:.2f} h |"
            f" {60 * scan_hours:.2f} min | {cores:,.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    if "--training" in sys.argv:
        with together():
            rate = training()
            if share()[0] == 0:
                print(rate)
        return
    if len(sys.argv) != 2 or not Path(sys.argv[1], "train").is_dir():
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        description = yaml.safe_load((profiles.ROOT / "profiles" / "imagenet.yaml").read_text())
        description["data"] |= {
            "root": str(Path(sys.argv[1]).resolve()),
            "memory": 0.001,
            "normalise": "imagenet",
        }
        Path(folder, "photos.yaml").write_text(yaml.safe_dump(description))
        profile = profiles.read_profile(Path(folder, "photos.yaml"))
        profiles.ROOT = Path(folder)  # what is decoded is thrown away
        device, threads = default_device(), torch.get_num_threads()
        found = {
            "device": provenance.record(profile)["device"],
            "threads": threads,
            "torch": torch.__version__,
            "commit": provenance.commit(),
            "parameters": sum(p.numel() for p in ZFNet(1000).parameters()),
            "flops": flops(),
            "decode_per_s": decoding(profile),
            "train_per_s": training(),
            "scan_per_s": scanning(profile),
        }
        if device.type == "cpu" and threads > 1:
            found["train_by_two_per_s"] = by_two(threads)
    (HERE / "scaling.json").write_text(
        json.dumps(
            {k: round(v, 1) if isinstance(v, float) else v for k, v in found.items()}, indent=1
        )
        + "\n"
    )
    write_sections(PAGE, {"scaling": report(found)})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
