"""What is kept in git: light, and at home on any machine."""

import re
import subprocess
from pathlib import Path

import pytest

from zfnet.store.profiles import ROOT

# of a machine; /tmp, /dev and /usr are on all
PLACES = re.compile(r"(?<![\w.~/-])/(?:home|root|Users|work|mnt|opt|srv|media)/\w")


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    """{path: mode} of every file that git keeps, as it lies in the index."""
    found = subprocess.run(
        ["git", "ls-files", "--stage", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip(f"not a git checkout: {found.stderr.strip()}")
    entries = [line.split("\t", 1) for line in found.stdout.split("\0") if line]
    return {path: about.split()[0] for about, path in entries}


def test_no_file_is_a_link(kept):
    """A link in data/ or runs/ is somebody's own; kept, it would lead nowhere in a clone, and
    downloads would fail.
    """
    assert (
        "README.md" in kept
        and [path for path, mode in kept.items() if mode not in ("100644", "100755")] == []
    )


@pytest.mark.parametrize("folder", ["data", "runs", ".venv"])
def test_a_link_in_place_of_a_folder_is_ignored_too(folder, kept, tmp_path):
    """Images on another disk are linked in; `git add .` must not take the link."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / folder).symlink_to(tmp_path / "elsewhere")
    status = subprocess.run(
        ["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert status == "?? .gitignore\n"


def test_files_are_small(kept):
    limits = {"Figures": 500_000, "notebooks": 300_000}
    sizes = {path: (ROOT / path).stat().st_size for path in kept if (ROOT / path).is_file()}
    assert [
        path for path, size in sizes.items() if size >= limits.get(Path(path).parts[0], 10_000_000)
    ] == []


def test_no_text_names_a_place_on_a_machine(kept):
    named = []
    for path in kept:
        content = (ROOT / path).read_bytes() if (ROOT / path).is_file() else b""
        if b"\0" not in content[:8000]:
            named += [
                f"{path}: {line}"
                for line in content.decode(errors="replace").splitlines()
                if PLACES.search(line)
            ]
    assert named == []
    assert all(
        PLACES.search(f"{before}/{place}/ada")
        for place in ("home", "root", "Users", "srv")
        for before in ("in ", '"', "(")
    )
    assert not PLACES.search("https://arxiv.org/home/a, ../media/a, notebooks/home/a")
