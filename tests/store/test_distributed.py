"""Several processes do what one does: two under torchrun, with gloo, as a user starts them."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from zfnet import Images, scan
from zfnet.data.images import random_crops
from zfnet.methods.top_activations import merge_tables
from zfnet.store.artefacts import load_tensors, read_meta

PROFILE = """
title: Tiny
data: {source: shapes, count: 240, resize: 64, size: 56, validation: 0.2}
model: {maps: [6, 8, 8, 8, 8], fc: [16], dropout: 0.0}
training:
  {epochs: EPOCHS, batch_size: 16, lr: 0.01, schedule: onecycle, rms: 0.1, snapshots: [32, 64]}
scan_split: train
"""
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"


def environment(root: Path) -> dict[str, str]:
    return {
        **os.environ,
        "ZFNET_ROOT": str(root),
        "PYTHONPATH": str(SOURCES),
        "OMP_NUM_THREADS": "1",
    }


def tiny(root: Path, epochs: int = 2) -> Path:
    (root / "profiles").mkdir(parents=True)
    (root / "profiles" / "tiny.yaml").write_text(PROFILE.replace("EPOCHS", str(epochs)))
    return root


def command(processes: int, *words: str) -> list[str]:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes > 1
        else []
    )
    return [sys.executable, *launcher, "-m", "zfnet", *words]


def run(root: Path, processes: int, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(processes, *words),
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The tiny profile trained and scanned by one process and by two."""
    roots = {}
    for processes in (1, 2):
        root = tiny(tmp_path_factory.mktemp(f"by{processes}"))
        done = run(root, processes, "scan", "tiny")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("feature maps over") == 1
        roots[processes] = root / "runs" / "tiny"
    return roots


@pytest.mark.slow
def test_two_processes_train_as_one_does(runs, report):
    one, two = (
        [[float(x) for x in row] for row in csv.reader(lines[1:])]
        for lines in ((runs[n] / "history.csv").read_text().splitlines() for n in (1, 2))
    )
    apart = max(
        abs(a - b) / max(abs(a), 1e-6)
        for left, right in zip(one, two, strict=True)
        for a, b in zip(left, right, strict=True)
    )
    (weights, meta), (others, other) = (
        load_tensors(runs[n] / "weights.safetensors") for n in (1, 2)
    )
    distance = max(
        float((weights[name] - others[name]).norm() / weights[name].norm().clamp_min(1e-3))
        for name in weights
    )
    report(
        f"trained by two processes instead of one: history within {apart:.1e}, weights within"
        f" {distance:.1e} (relative)"
    )
    assert apart < 1e-4 and distance < 1e-3
    assert (meta["processes"], other["processes"]) == (1, 2)
    assert meta["test_accuracy"] == pytest.approx(other["test_accuracy"])
    assert (
        read_meta(runs[2] / "snapshots" / "32.safetensors")["step"]
        == read_meta(runs[1] / "snapshots" / "32.safetensors")["step"]
    )


@pytest.mark.slow
def test_a_scan_by_two_processes_is_that_of_one_to_the_bit(runs, tmp_path):
    """Two processes scan with the weights that one trained: same weights, so the same tables."""
    root = tiny(tmp_path / "again")
    kept = root / "runs" / "tiny"
    kept.parent.mkdir()
    subprocess.run(["cp", "-r", str(runs[1]), str(kept)], check=True)
    (kept / "scan.safetensors").unlink()
    done = run(root, 2, "scan", "tiny")
    assert done.returncode == 0, done.stderr
    one, two = (load_tensors(folder / "scan.safetensors")[0] for folder in (runs[1], kept))
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_tables_of_shares_merge_to_the_table_of_all(processes):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3), nn.ReLU()
    )
    # repeated images: ties
    pixels = torch.randint(0, 3, (33, 3, 14, 14), dtype=torch.uint8)[torch.randint(0, 12, (33,))]
    images = Images(
        pixels,
        torch.zeros(33, dtype=torch.long),
        ["one"],
        14,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
    )
    whole = scan(net, images, ["1", "4"], k=9, batch_size=5)
    parts = [
        scan(net, images, ["1", "4"], k=9, batch_size=5, share=(rank, processes))
        for rank in range(processes)
    ]
    merged = merge_tables(parts, 9)
    assert [len(part) > 0 for part in parts] == [rank < 7 for rank in range(processes)]
    for name, top in whole.items():
        for field, table in vars(top).items():
            assert torch.equal(table, getattr(merged[name], field)), (name, field)


@pytest.mark.parametrize("smallest", [None, 10])
def test_the_crops_of_shares_are_those_of_the_batch(smallest):
    pixels, indices = (
        torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8),
        torch.randperm(20)[:12],
    )
    whole = random_crops(pixels, indices, 12, torch.Generator().manual_seed(1), smallest=smallest)
    for rank in range(3):
        own = random_crops(
            pixels,
            indices[rank::3],
            12,
            torch.Generator().manual_seed(1),
            smallest=smallest,
            share=(rank, 3),
        )
        assert torch.equal(own, whole[rank::3])


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    done = run(tiny(tmp_path / "r"), 3, "train", "tiny")
    assert done.returncode != 0
    assert (
        "a batch of 16 images cannot be shared by 3 processes alike: choose a number that"
        " divides it" in done.stderr
    )


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_the_next_goes_on(tmp_path):
    root = tiny(tmp_path / "r", epochs=40)
    run_of_two = subprocess.Popen(
        command(2, "train", "tiny"),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint, waited = root / "runs" / "tiny" / "checkpoint.pt", time.monotonic()
    while not checkpoint.exists() and time.monotonic() - waited < 300:
        time.sleep(0.1)
    workers = subprocess.run(
        ["pgrep", "-P", str(run_of_two.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    said = run_of_two.communicate(timeout=120)[1]
    assert run_of_two.returncode != 0 and "Traceback" not in said.split("torch/distributed")[0], (
        said
    )
    epochs = len(torch.load(checkpoint, weights_only=True)["history"])
    assert 0 < epochs < 40
    before = checkpoint.stat().st_mtime_ns
    goes_on = subprocess.Popen(
        command(2, "train", "tiny"),
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    waited = time.monotonic()
    while (
        checkpoint.exists()
        and checkpoint.stat().st_mtime_ns == before
        and time.monotonic() - waited < 300
    ):
        time.sleep(0.1)
    goes_on.terminate()
    assert f"epoch {epochs + 1:3d}/40" in goes_on.communicate(timeout=120)[0]
