"""The script for a GPU, dry: every part with tiny sizes on the CPU, and what runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.sh"
TORCH_RUN_ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT")


@pytest.mark.slow
@pytest.mark.parametrize("part", gpu.PARTS)
def test_every_part_runs_and_writes_what_it_found(part, tmp_path, monkeypatch):
    for name in TORCH_RUN_ENVIRONMENT:  # taken back afterwards
        monkeypatch.setenv(name, {"MASTER_ADDR": "localhost", "MASTER_PORT": "29578"}[name])
    before = gpu.profiles.ROOT
    assert gpu.main([part, "--out", str(tmp_path), "--small"]) == 0
    found = json.loads((tmp_path / f"{part}.json").read_text())
    assert found["ok"] and found["small"] and found["part"] == part and found["device"]
    assert before == gpu.profiles.ROOT


def test_a_comparison_that_fails_and_a_part_that_breaks_leave_their_files(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "scans", lambda small: {"error": 0.5, "ok": False})

    def broken(small):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "ddp", broken)
    for part, kept in (
        ("scans", {"error": 0.5}),
        ("ddp", {"failed": "RuntimeError: no such kernel"}),
    ):
        assert gpu.main([part, "--out", str(tmp_path)]) == 1
        found = json.loads((tmp_path / f"{part}.json").read_text())
        assert not found["ok"] and kept.items() <= found.items()


def test_an_error_above_rounding_is_no_success(monkeypatch):
    monkeypatch.setattr(gpu, "FEW", {"zfnet": ["features.relu2"]})
    assert gpu.projections(True)["ok"]
    real = gpu.Deconvnet.project
    monkeypatch.setattr(gpu.Deconvnet, "project", lambda *a, **k: real(*a, **k) * 1.001)
    assert not gpu.projections(True)["ok"]


@pytest.mark.parametrize("small", ["", "1"])
def test_the_script_runs_every_part_though_all_fail(small, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexit 3\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "SMALL": small}
    out = tmp_path / "found"
    done = subprocess.run(
        [SCRIPT, out], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    parts = [call.split()[2] for call in calls if "benchmarks.gpu" in call]
    assert parts == list(gpu.PARTS)
    assert all(("--small" in call) == bool(small) for call in calls if "benchmarks.gpu" in call)
    assert any("benchmarks.run" in call for call in calls) != bool(small)
    said = (out / "parts.txt").read_text().splitlines()
    assert len(said) == len(calls) and all(line.endswith("code 3") for line in said)
