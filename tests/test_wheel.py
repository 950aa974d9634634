"""The wheel is whole: made from an unpacked sdist and used where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from skimage import data, io

from zfnet.store.profiles import ROOT

pytestmark = pytest.mark.slow
OFFLINE = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
ALONE = "--no-deps", "-q"
BUILD = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as its wheel installs it, and `run(...)` -> what Python says
    that sees this folder and the environment's packages, but not the checkout.
    """
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    kept = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if kept.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, kept.stdout.split("\0")):
        wanted = name.startswith(("src/", "profiles/", "weights/")) or "/" not in name
        if wanted and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())

    def done(*command, folder, **environment) -> str:
        outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        found = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**outside, **OFFLINE, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
        )
        assert not found.returncode, found.stdout + found.stderr
        return found.stdout

    sdist = source / "dist" / done("-c", BUILD, folder=source).split()[-1]
    done("-m", "pip", "wheel", *ALONE, "--no-build-isolation", "-w", "wheels", sdist, folder=source)
    (wheel,) = (source / "wheels").glob("*.whl")
    done("-m", "pip", "install", *ALONE, "--target", site, wheel, folder=source)
    # -S: what an editable installation leaves in site-packages is not followed to the checkout
    packages = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    paths = os.pathsep.join([str(site), *packages])

    def run(*command, folder: Path) -> str:
        return done("-S", *command, folder=folder, PYTHONPATH=paths, ZFNET_ROOT=str(folder))

    run.site, run.wheel = site, wheel
    return run


def test_the_wheel_carries_profiles_weights_and_pages(installed):
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    shipped = [*ROOT.glob("profiles/**/*.yaml"), *ROOT.glob("weights/zfnet_*.safetensors")]
    assert {f"zfnet/shipped/{path.relative_to(ROOT)}" for path in shipped} <= names
    own = [path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".html", ".css")]
    assert {str(path.relative_to(ROOT / "src")) for path in own} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]


def test_without_a_checkout_the_package_reads_what_it_ships(installed, tmp_path):
    lines = """
import zfnet
from zfnet.store.profiles import shipped
print(zfnet.__file__)
for name in zfnet.profile_names():
    profile = zfnet.load_profile(name)
    print(name, (profile.given_weights is None or profile.given_weights.is_file()))
print(shipped("profiles/parts/cifar10.yaml").is_file())
"""
    where, *profiles, parts = installed("-c", lines, folder=tmp_path).split("\n")[:-1]
    assert Path(where).is_relative_to(installed.site)
    known = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
    # whose weights others published, to be put there by hand
    by_hand = ("alexnet", "googlenet")
    assert profiles == [f"{name} {name not in by_hand}" for name in known] and parts == "True"


def test_a_photograph_is_explained_in_an_empty_folder(installed, tmp_path):
    io.imsave(tmp_path / "photo.png", data.astronaut())
    installed("-m", "zfnet", "explain", "photo.png", folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "photo_explain.png"]
    drawn = io.imread(tmp_path / "photo_explain.png")
    assert drawn.ndim == 3 and drawn.std() > 10
