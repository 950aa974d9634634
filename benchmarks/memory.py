"""Peak memory of two things that could take a lot of it, each in a process of its own: a scan of a
large folder, and the occlusion of a large image.

    python -m benchmarks.memory     # 50,000 images; an image of 1,000 px: below 2 GiB each
    python -m benchmarks.memory --images 2000 --pixels 300

The folder is too large for `data: memory:`, so its images stay in their files and several processes
decode them. Counted is the memory of the process and of all that it starts, three times a second:
once as the sum of what each has resident, where shared pages count in each, and once with shared
pages divided among those that share them, which is what the machine has to have. Linux only. Ends
with an error where the latter exceeds the limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 2.0  # GiB


def scan_folder(images: int, folder: str) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from zfnet import Profile, build_model, load_data, load_scan, paper_layers
    from zfnet.data.images import Files
    from zfnet.store import profiles
    from zfnet.store.profiles import DataConfig, ModelConfig

    profiles.ROOT, rng, own = Path(folder), np.random.default_rng(0), 100
    for n in range(images):  # photographs of noise, each under many names
        path = Path(folder, "images", f"{n % 10}", f"{n:06d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        if n < own:
            picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
                (160, 120), Image.Resampling.BICUBIC
            )
            picture.save(path, quality=85)
        else:
            os.link(Path(folder, "images", f"{n % own % 10}", f"{n % own:06d}.jpg"), path)
    config = DataConfig(
        source="folder",
        root="images",
        normalise="imagenet",
        test=0.01,
        validation=0.99,
        memory=min(2.0, images * 3 * 128**2 / 2**31),
    )
    profile = Profile(
        "large", "Large", data=config, model=ModelConfig(maps=(16, 24, 32, 32, 24), fc=())
    )
    data, model = load_data(profile), build_model(profile, 10).eval()
    assert isinstance(data.val.pixels, Files)
    top = load_scan(profile, model, data.val, list(paper_layers(model.features).values()))
    assert all(torch.isfinite(each.value).all() for each in top.values())
    print(f"scan of {len(data.val):,} of {images:,} images in files, five layers")


def occlude_image(pixels: int) -> None:
    import torch

    from zfnet import ZFNet, occlude

    torch.manual_seed(0)
    model = ZFNet(10, input_size=pixels, fc=(64,)).eval()
    found = occlude(model, torch.randn(3, pixels, pixels), 0, pixels // 8, pixels // 5)
    print(
        f"occlusion of an image of {pixels} x {pixels}, ZFNet at full width,"
        f" {found.probability.numel()} positions"
    )


def tree(pid: int) -> list[int]:
    """A process and all that it started, as far as they still live."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def memory(pid: int) -> tuple[float, float]:
    """GiB of a process and all that it started: resident in each, and with shared pages divided
    among their users.
    """
    sums = {"Rss:": 0, "Pss:": 0}
    for one in tree(pid):
        try:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, *rest = line.split()
                if name in sums:
                    sums[name] += int(rest[0])
        except OSError:
            continue
    return sums["Rss:"] / 2**20, sums["Pss:"] / 2**20


def measured(*arguments: str) -> tuple[str, float, float, float]:
    """What a process of this script says, its seconds, and the two peaks in GiB."""
    started, peaks = time.perf_counter(), (0.0, 0.0)
    with subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peaks = tuple(map(max, peaks, memory(process.pid)))
            time.sleep(0.3)
        said = process.stdout.read().strip()
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return said, time.perf_counter() - started, *peaks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--pixels", type=int, default=1000)
    parser.add_argument("--only", choices=("scan", "occlude"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "scan":
        return scan_folder(arguments.images, arguments.folder)
    if arguments.only == "occlude":
        return occlude_image(arguments.pixels)
    over = False
    with tempfile.TemporaryDirectory() as folder:
        for rest in (["--only", "occlude"], ["--only", "scan", "--folder", folder]):
            said, seconds, resident, shared = measured(
                "--images", str(arguments.images), "--pixels", str(arguments.pixels), *rest
            )
            print(
                f"{said}: {seconds:.0f} s, peak {shared:.2f} GiB ({resident:.2f} GiB with shared"
                " pages counted in every process)",
                flush=True,
            )
            over |= shared > LIMIT
    if over:
        sys.exit(f"more than {LIMIT} GiB")


if __name__ == "__main__":
    main()
