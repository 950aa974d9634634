"""The house's outside: the files that name versions agree, and the Makefile does what its help
says.

The Makefile is driven with a stand-in for Python that records what it is asked to do: no network,
no torch.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# imagenet: weights alone, which `make env` does without where they are not to be had
EXTRAS = {k: v for k, v in PROJECT["optional-dependencies"].items() if k != "imagenet"}
DIRECT = [Requirement(line) for line in sum(EXTRAS.values(), PROJECT["dependencies"])]
TARGETS = {
    "help",
    "env",
    "figures",
    "gallery",
    "live",
    "check",
    "test",
    "bench",
    "lab",
    "train",
    "scan",
    "notebooks",
    "lock",
    "clean",
}
# Where the name to import differs from the name to install.
IMPORT_NAMES = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
}


def pins(lines) -> dict[str, Requirement]:
    """{canonical name: requirement} of the lines that name a package; options do not."""
    stripped = (line.split("#")[0].strip() for line in lines)
    requirements = [Requirement(line) for line in stripped if line and not line.startswith("-")]
    found = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    assert len(found) == len(requirements), "a package is pinned twice"
    return found


def exact(requirement: Requirement) -> str:
    match = re.fullmatch(r"==([0-9][0-9a-z.]*)", str(requirement.specifier))
    assert match, f"{requirement} is not pinned exactly, or to a build of one machine"
    return match[1]


@pytest.fixture(scope="module")
def locked():
    return pins((ROOT / "requirements.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


# --- Versions -------------------------------------------------------------------------------------


def test_every_requirement_is_pinned_exactly(locked):
    assert len(locked) > 100  # the transitive ones too
    assert all(exact(requirement) and requirement.url is None for requirement in locked.values())


def test_requirements_name_no_index_and_no_place(locked):
    text = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"://|--|^-|@ |/", re.sub("#.*", "", text), re.MULTILINE)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_direct_dependency_has_one_version_everywhere(requirement, locked, conda):
    name = canonicalize_name(requirement.name)
    assert [spec.operator for spec in requirement.specifier] == [">="], (
        "pyproject.toml states lower bounds"
    )
    assert name in locked, f"{name} is missing from requirements.txt: make lock"
    assert locked[name].marker is None, f"{name} is pinned for some machines only"
    version = exact(locked[name])
    assert requirement.specifier.contains(version)
    by_conda = pins(conda[-1]["pip"])
    assert name in by_conda, f"{name} is missing from environment.yml"
    assert exact(by_conda[name]) == version


def test_environment_yml_names_nothing_else(conda):
    assert set(pins(conda[-1]["pip"])) == {
        canonicalize_name(requirement.name) for requirement in DIRECT
    }
    assert "-c requirements.txt" in conda[-1]["pip"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert conda[:-1] == [f"python={oldest}", "pip"]


def test_environment_yml_gives_a_reason_for_every_package():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    lines = [line for line in lines if re.match(r"\s+- (?!pip:|-c|conda)", line)]
    assert len(lines) == len(DIRECT) + 2
    assert not [line for line in lines if not re.search(r"# \w.{8,}", line)]


def test_the_build_backend_is_pinned_too(locked):
    """`make env` installs the project without build isolation, with the setuptools of
    requirements.txt.
    """
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert Requirement(backend).specifier.contains(exact(locked["setuptools"]))


def imported(files) -> set[str]:
    """The packages that these files import, by the names to install; the standard library's and
    our own are left out.
    """
    names = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    foreign = names - sys.stdlib_module_names - {"zfnet", "tests", "tools", "benchmarks"}
    return {canonicalize_name(IMPORT_NAMES.get(name, name)) for name in foreign}


@pytest.mark.parametrize(
    "folder, extras",
    [
        ("src", ["notebooks", "live"]),
        ("tools", ["notebooks", "test"]),
        ("tests", ["notebooks", "test", "live"]),
        ("benchmarks", ["notebooks", "test"]),
    ],
)
def test_everything_imported_is_a_direct_dependency(folder, extras):
    lines = sum((EXTRAS[name] for name in extras), PROJECT["dependencies"])
    # what is used where somebody has it, and done without where not
    allowed = {"captum", "pillow-heif"} if folder == "src" else set()
    allowed |= {canonicalize_name(Requirement(line).name) for line in lines}
    assert imported((ROOT / folder).rglob("*.py")) <= allowed


def test_only_the_explorer_needs_the_notebooks_packages():
    files = set((ROOT / "src").rglob("*.py")) - set((ROOT / "src/zfnet/explorer").glob("*.py"))
    needed = {canonicalize_name(Requirement(line).name) for line in EXTRAS["notebooks"]}
    assert not imported(files) & needed


# --- The Makefile ---------------------------------------------------------------------------------

STAND_IN = """#!/bin/sh
# Stands in for Python: notes what it is asked to do, and leaves what the real one would leave.
case "$*" in
  "-c "*) ;;
  *"-m zfnet notebooks"*) echo 01_first; echo 02_second; exit ;;
  *"-m papermill"*)
    for word; do source=$target; target=$word; done
    stem=$(basename "$source" .ipynb)
    echo "run $stem" >> log
    grep -q broken "$source" && { echo "Exception encountered at In [5]" >&2; exit 1; }
    if grep -q together "$source"; then
      touch here-$stem
      for n in 1 2 3 4 5 6 7 8 9; do [ $(ls here-* | wc -l) = 2 ] && break; sleep 0.3; done
      echo $(ls here-* | wc -l) here, ${OMP_NUM_THREADS:-all} threads >> log
    fi
    cp "$source" "$target"
    touch runs/demo/$stem.safetensors  # what a notebook keeps is newer than the notebooks before it
    grep -q silent "$source" || { mkdir -p Figures/demo; touch Figures/demo/$stem.png; } ;;
  *"-m zfnet train"*)
    mkdir -p runs/demo
    [ -e runs/demo/weights.safetensors ] || echo weights > runs/demo/weights.safetensors
    echo train >> log ;;
  *"-m zfnet scan"*) echo scan >> log ;;
  *"-m zfnet gallery"*) echo "$*" >> log ;;
  tools/check_environment.py) ;;
  *"-m tools.clean_notebook"*) ;;
  *"-m venv"*) echo venv >> log; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"-m pip install"*) echo install >> log; [ ! -e offline ] ;;
esac
"""


@pytest.fixture
def make():
    if shutil.which("make") is None:
        pytest.skip("needs make")
    # `make test` hands its own flags down; these runs are not part of it.
    outside = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MAKE", "MFLAGS", "OMP_"))
    }

    def run(*arguments, folder=ROOT, succeeds=True):
        command = ["make", *arguments]
        result = subprocess.run(
            command, cwd=folder, env=outside, timeout=60, text=True, capture_output=True
        )
        assert (result.returncode == 0) == succeeds, result.stdout + result.stderr
        return result.stdout if succeeds else result.stdout + result.stderr

    return run


@pytest.fixture
def house(tmp_path, make):
    """A checkout with two notebooks, the stand-in for Python, and `house(...)` -> what that make
    started.
    """
    folder = tmp_path / "a house"  # with a space in its name
    for name in ("notebooks", "profiles", "src/zfnet", "tools"):
        (folder / name).mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "requirements.txt",
        "tools/check_environment.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    (folder / "profiles/demo.yaml").write_text("title: built-in shapes\n")
    for path in ("__init__.py", "room/__init__.py", "room/corner/deep.py"):
        (folder / "src/zfnet" / path).parent.mkdir(exist_ok=True)
        (folder / "src/zfnet" / path).touch()
    for stem in ("01_first", "02_second"):
        (folder / f"notebooks/{stem}.ipynb").write_text("{}")
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    log = folder / "log"

    def started(*arguments, succeeds=True):
        log.write_text("")
        make("PYTHON=./python", *arguments, folder=folder, succeeds=succeeds)
        return sorted(log.read_text().splitlines())

    started.folder = folder
    return started


def test_help_lists_every_target_and_every_profile(make):
    listed = re.findall(r"^  make ([a-z]+) ", make("help"), re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)
    for profile in (ROOT / "profiles").glob("*.yaml"):
        title = yaml.safe_load(profile.read_text())["title"]
        assert re.search(rf"^    {profile.stem} +{re.escape(title)}$", make("help"), re.MULTILINE)
    assert make() == make("help")


def test_the_documented_targets_are_phony():
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) >= TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_dry_run_has_no_error(target, make):
    make("-n", target)


def test_tests_leave_the_committed_figures_alone(make):
    (nbval,) = [
        line for line in make("-n", "test").replace("\\\n", "").splitlines() if "--nbval" in line
    ]
    assert f'ZFNET_FIGURES="{ROOT}/runs/' in nbval
    tested = re.findall(r"notebooks/\S+\.ipynb", nbval)
    assert sorted(tested) == sorted(
        f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")
    )


def test_a_misspelt_profile_is_named_beside_the_good_ones(make):
    message = make("figures", "PROFILE=dmeo", succeeds=False)
    assert "no profile 'dmeo'" in message
    assert all(path.stem in message for path in (ROOT / "profiles").glob("*.yaml"))


def test_a_python_that_is_too_old_or_not_there_is_told_so(house, make):
    (house.folder / "python").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.1\nexit 1\n'
    )
    message = make("env", "BASE=./python", folder=house.folder, succeeds=False)
    assert "Python 3.11 or newer" in message and "Python 3.10.1" in message and "BASE=" in message
    assert not (house.folder / ".venv").exists()


def test_an_installation_cut_short_is_started_over_and_a_whole_one_kept(house, make):
    log, offline, mark = (house.folder / name for name in ("log", "offline", ".venv/.installed"))

    def started(succeeds=True):
        log.write_text("")
        make("env", "BASE=./python", folder=house.folder, succeeds=succeeds)
        return log.read_text().split()

    offline.touch()
    assert started(succeeds=False) == ["venv", "install"] and not mark.exists()
    offline.unlink()
    # the packages, the project, SqueezeNet's weights
    assert started() == ["venv", "install", "install", "install"] and mark.exists()
    assert started() == []
    (house.folder / "requirements.txt").write_text("changed==1\n")
    assert started() == ["install", "install", "install"]
    # the weights are not to be had: the rest is there all the same, and it is said
    (house.folder / "pyproject.toml").write_text('imagenet = ["lost==1.0"]\n')
    script = (house.folder / "python").read_text()
    for python in ("python", ".venv/bin/python"):
        lost = script.replace(
            '*"-m pip install"*)', '*"lost==1.0"*) false ;;\n  *"-m pip install"*)'
        )
        (house.folder / python).write_text(lost)
    mark.unlink()
    assert "lost==1.0 is not to be had" in make("env", folder=house.folder) and mark.exists()


def test_a_python_without_the_packages_is_told_what_it_lacks(house, make):
    needs = '[project]\ndependencies = ["no-such-package>=1.2", "packaging>=999"]\n'
    (house.folder / "pyproject.toml").write_text(needs)
    message = make("env", f"PYTHON={sys.executable}", folder=house.folder, succeeds=False)
    assert (
        "lacks: no-such-package>=1.2, packaging>=999 (found " in message
        and "-m pip install" in message
    )


def test_figures_are_made_once(house):
    assert house("figures") == ["run 01_first", "run 02_second", "scan", "train"]
    assert house("figures") == []
    assert house("-j2", "figures") == []


@pytest.mark.parametrize(
    "flags, said",
    [
        (("CORES=6",), ["2 here, 3 threads"] * 2),
        (("CORES=6", "-j4"), ["2 here, 2 threads"] * 2),
        # the first one's mark stays
        (("CORES=6", "-j1"), ["1 here, all threads", "2 here, all threads"]),
        (("CORES=1",), ["1 here, all threads", "2 here, all threads"]),
    ],
)
@pytest.mark.slow
def test_notebooks_run_two_at_a_time_and_share_the_cores(house, flags, said):
    for stem in ("01_first", "02_second"):
        (house.folder / f"notebooks/{stem}.ipynb").write_text("together")
    assert [line for line in house(*flags, "figures") if "here" in line] == said


def test_a_gallery_follows_the_scan(house):
    assert house("gallery") == ["-m zfnet gallery demo", "scan", "train"]
    assert house("gallery", "ZIP=1") == ["-m zfnet gallery demo --zip"]


def test_a_changed_notebook_is_run_alone(house):
    house("figures")
    (house.folder / "notebooks/02_second.ipynb").write_text("{ }")
    assert house("figures") == ["run 02_second"]


def test_a_deleted_figure_is_drawn_again(house):
    house("figures")
    (house.folder / "Figures/demo/01_first.png").unlink()
    assert house("figures") == ["run 01_first"]


def test_new_code_and_new_weights_reach_the_figures(house):
    house("figures")
    time.sleep(0.02)
    (house.folder / "runs/demo/weights.safetensors").write_text("trained anew")
    assert house("figures") == ["run 01_first", "run 02_second"]
    for path in ("__init__.py", "room/__init__.py", "room/corner/deep.py"):
        (house.folder / "src/zfnet" / path).write_text("new = True")
        assert house("figures") == ["run 01_first", "run 02_second", "scan", "train"]
        time.sleep(0.02)


@pytest.mark.parametrize(
    "fault, said",
    [
        ("broken", r"In \[5\]\n.*02_second.ipynb failed; .*02_second.log"),
        ("silent", "no Figures/demo/02_second.png"),
    ],
)
def test_a_notebook_that_fails_or_draws_nothing_stops_make_and_is_run_again(
    house, make, fault, said
):
    notebook = house.folder / "notebooks/02_second.ipynb"
    notebook.write_text(fault)
    message = make("PYTHON=./python", "figures", folder=house.folder, succeeds=False)
    assert re.search(said, message)
    assert house("figures", succeeds=False) == ["run 02_second"]
    assert not (house.folder / "runs/demo/notebooks/02_second.ipynb").exists()
    notebook.write_text("{}")
    assert house("figures") == ["run 02_second"]


def test_clean_keeps_figures_and_data(house):
    house("figures")
    (house.folder / "data").mkdir()
    house("clean")
    assert not (house.folder / "runs/demo").exists()
    assert (house.folder / "Figures/demo/01_first.png").exists() and (
        house.folder / "data"
    ).exists()
