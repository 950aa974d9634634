"""A result says which code it comes from."""

from __future__ import annotations

import subprocess

from zfnet.store import provenance


def test_a_commit_is_dirty_when_the_code_is_and_not_when_figures_are(tmp_path, monkeypatch):
    def git(*words):
        identity = [
            "-c",
            "user.name=Nobody",
            "-c",
            "user.email=nobody@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    module = tmp_path / "src" / "zfnet" / "store" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (tmp_path / "Figures").mkdir()
    (tmp_path / "Figures" / "a.csv").write_text("1\n")
    assert provenance.commit() == git("rev-parse", "HEAD")[:10]
    module.write_text("a = 2\n")
    assert provenance.commit() == git("rev-parse", "HEAD")[:10] + "-dirty"
