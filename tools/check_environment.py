"""Is this Python new enough, and has it the packages that the project needs?

    python tools/check_environment.py      # silent if all is well, otherwise what is missing

Reads pyproject.toml of the current folder. Must be read by old Pythons, too, to tell them so.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, since PYTHON may be any
    found = (sys.executable, *sys.version_info[:2])
    sys.exit("PYTHON=%s is Python %d.%d; 3.11 or newer is needed" % found)  # noqa: UP031

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def missing(project: dict) -> list[str]:
    """The requirements, of the package and of its notebooks, that this environment does not meet,
    each with the version that was found instead.
    """
    lacking = []
    extras = project.get("optional-dependencies", {})
    for line in project["dependencies"] + extras.get("notebooks", []):
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(line)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            lacking.append(f"{line} (found {version})")
    return lacking


if __name__ == "__main__":
    lacking = missing(tomllib.loads(Path("pyproject.toml").read_text())["project"])
    if lacking:
        sys.exit(
            f"PYTHON={sys.executable} lacks: {', '.join(lacking)}\n"
            f"Install: {sys.executable} -m pip install -r requirements.txt"
        )
