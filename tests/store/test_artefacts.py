"""Artefacts are whole or absent, and never stale."""

from __future__ import annotations

import pytest
import torch

from zfnet.store import artefacts


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), artefacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_artefacts_are_found_rebuilt_when_stale_and_rebuilt_when_damaged(tmp_path):
    path, built = tmp_path / "x.safetensors", []

    def build():
        built.append(1)
        return {"t": torch.tensor([len(built)])}, {"n": len(built)}

    assert artefacts.artefact(path, "a", build)[0]["t"].item() == 1
    assert artefacts.artefact(path, "a", build) == ({"t": torch.tensor([1])}, {"n": 1, "key": "a"})
    assert artefacts.artefact(path, "b", build)[1]["n"] == 2
    path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(UserWarning, match=r"x.safetensors is damaged \(.*\): it is made again"):
        assert artefacts.artefact(path, "b", build)[1]["n"] == 3 and len(built) == 3
