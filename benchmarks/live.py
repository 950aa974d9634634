"""One position of the occluding square, as the explorer answers it, beside the net's own forward
pass on the covered image: `python -m benchmarks.live`.

In turn, at the same random positions; medians. Wall time is what a hand on the mouse feels; CPU
time is what it costs, also where other programs are running.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from zfnet import ZFNet
from zfnet.data import photographs as photos
from zfnet.methods.occlusion import LiveOcclusion
from zfnet.models.named import load_net


def measure(model, image, size: int, count: int) -> tuple[list[float], list[float], float]:
    """Median wall and CPU milliseconds, live and by the full pass, and the largest relative
    difference of the logits.
    """
    live, side = LiveOcclusion(model, image), image.shape[-1]
    generator, wall, cpu, error = torch.Generator().manual_seed(0), ([], []), ([], []), 0.0
    for top, left in torch.randint(side - size + 1, (count + 3, 2), generator=generator).tolist():
        covered = image.clone()
        covered[:, top : top + size, left : left + size] = 0
        found = []
        for n in range(2):
            started = time.perf_counter(), time.process_time()
            found.append(live.at(top, left, size)[0] if n == 0 else model(covered[None])[0])
            for times, before, now in zip(
                (wall, cpu), started, (time.perf_counter(), time.process_time()), strict=True
            ):
                times[n].append(1e3 * (now - before))
        error = max(error, float((found[0] - found[1]).norm() / found[1].norm()))
    return *([statistics.median(times[3:]) for times in kind] for kind in (wall, cpu)), error


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="positions; default: 40")
    count = parser.parse_args().count
    net = load_net(device="cpu")
    crops = net.images(photos.make_photos(12, net.size).images)
    paper = ZFNet(1000).eval(), torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
    print(f"{torch.get_num_threads()} threads")
    wide = "".join(f"{kind + ': wall, CPU ms':>22}" for kind in ("live", "full"))
    print(f"{'net, square':<28}{wide}{'error':>10}")
    nets = (
        (f"shipped ZFNet, {net.size} px", net.model, crops.batch([3])[0], (16, 32, 64)),
        ("ZFNet, 224 px", *paper, (28, 56, 112)),
    )
    for name, model, image, sizes in nets:
        for size in sizes:
            wall, cpu, error = measure(model, image, size, count)
            print(
                f"{name + f', {size}':<28}"
                + "".join(f"{w:>12.1f}{c:>10.1f}" for w, c in zip(wall, cpu, strict=True))
                + f"{error:>10.0e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
