"""Where a result comes from: commit, profile, seed, device, versions."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def commit() -> str:
    """The commit of the working tree, "-dirty" when the code or a profile differs from it, or
    "unknown" outside a checkout.
    """
    root = Path(__file__).resolve().parents[3]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True
        ).stdout.strip()

    try:
        head, changed = (
            git("rev-parse", "--short=10", "HEAD"),
            git("status", "--porcelain", "--", "src", "profiles"),
        )
    except OSError:  # no git
        return "unknown"
    return head + "-dirty" * bool(changed) if head else "unknown"


def record(profile, device: torch.device | str | None = None, **more) -> dict[str, object]:
    """Provenance of a result: profile, seed, commit, torch version and device (None: the GPU where
    there is one), and what else the caller measured.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    )
    return {
        "profile": profile.name,
        "seed": profile.seed,
        "commit": commit(),
        "torch": torch.__version__,
        "device": name,
        **more,
    }
