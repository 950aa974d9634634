"""What a large data set costs on this machine: decoding, training and scanning in images a second, alone and by two processes.

    python benchmarks/scaling.py FOLDER      # a folder of photographs, train/CLASS/image and val/CLASS/image as ImageNet's; ten minutes

Writes benchmarks/scaling.json, from which docs/scaling.md quotes. Every number is measured here; what other machines would take is worked out there.
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

from zfnet import Profile, ZFNet, load_data, paper_layers, profiles, provenance, scan
from zfnet.distributed import averaged, share, together
from zfnet.files import Files, _ahead
from zfnet.training import default_device, forward, train_step

HERE = Path(__file__).resolve().parent
BATCH, STEPS = 32, 6


def decoding(profile: Profile) -> float:
    """Images a second that the worker processes decode to 256 px."""
    from zfnet.data import _listing

    files = Files(profile.data_root, _listing(profile), profile.data.resize)
    parts = torch.arange(len(files)).split(32)
    ahead = _ahead(files.read, parts)
    next(ahead)  # the workers have started
    started = time.perf_counter()
    return sum(len(pixels) for pixels, _ in ahead) / (time.perf_counter() - started)


def training() -> float:
    """Images a second in training steps of the full ZFNet at 224 px with 1,000 classes, over all processes; images lie in memory."""
    device = default_device()
    net = ZFNet(1000, lrn="after").to(device, memory_format=torch.channels_last).train()
    whole = averaged(net, forward)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    images = torch.randn(BATCH, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (BATCH,), device=device)
    for step in range(STEPS + 2):
        if step == 2:
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
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, "--training"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // 2))}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


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
        description["data"] |= {"root": str(Path(sys.argv[1]).resolve()), "memory": 0.001, "normalise": "imagenet"}
        Path(folder, "photos.yaml").write_text(yaml.safe_dump(description))
        profile = profiles.load_profile(Path(folder, "photos.yaml"))
        profiles.ROOT = Path(folder)  # what is decoded is thrown away
        device, threads = default_device(), torch.get_num_threads()
        found = {
            "device": provenance.record(profile)["device"], "threads": threads, "torch": torch.__version__, "commit": provenance.commit(),
            "parameters": sum(p.numel() for p in ZFNet(1000, lrn="after").parameters()),
            "decode_per_s": decoding(profile), "train_per_s": training(), "scan_per_s": scanning(profile),
        }  # fmt: skip
        if device.type == "cpu" and threads > 1:
            found["train_by_two_per_s"] = by_two(threads)
    (HERE / "scaling.json").write_text(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in found.items()}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
