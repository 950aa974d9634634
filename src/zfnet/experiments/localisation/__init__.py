"""Do the pictures lie on the object, where its exact mask is known? (section 4.2, and beyond the
paper)
"""

from dataclasses import dataclass

from zfnet.experiments import NONE, Experiment, Result, Results, Rows, one
from zfnet.store.errors import require
from zfnet.store.profiles import Profile, check_fits
from zfnet.store.schema import Positive

STEM = "19_localisation"


@dataclass(frozen=True)
class LocalisationConfig:
    """Folders of photographs and of their masks, NAME.jpg and NAME.png, relative to the project;
    none named: the profile's own test images, where their masks are known (the built-in shapes).

    `classes`: names of the net's outputs; the most probable of them is looked for in a photograph.
    `images`: how many at most. `size` and `stride` of the square in pixels of the input; None: as
    in `occlusion:`.
    """

    photos: str | None = None
    masks: str | None = None
    classes: tuple[str, ...] = ()
    images: Positive[int] = 1000
    size: Positive[int] | None = None
    stride: Positive[int] | None = None


def check(profile: Profile, where: tuple[str, ...]) -> None:
    """Raises UserError for photographs without masks or classes, and a square that does not fit."""
    section = profile.localisation
    given = [bool(part) for part in (section.photos, section.masks, section.classes)]
    require(
        all(given) or not any(given),
        f"{': '.join(where)}: photos, masks and classes belong together",
        "give all three, or none",
    )
    if section.size:
        check_fits(section.size, profile.data, (*where, "size"))


def possible(profile: Profile) -> bool:
    """Whether the profile has images whose masks are known."""
    return profile.data.source == "shapes" or profile.localisation.photos is not None


def results() -> Results:
    def beside(rows: Rows, measure: str, **which: str) -> str:
        fitting = [row for row in rows if all(row[name] == value for name, value in which.items())]
        row = max(fitting, key=lambda row: int(row["layer"] or 0))
        found, chance, centre = (
            100 * float(row[f"{measure}{part}"]) for part in ("", " chance", " centre")
        )
        error = 100 * float(row[f"{measure} se"])
        return f"{found:.1f} ± {error:.1f} %; {chance:.1f}; {centre:.1f} ({row['n']})"

    def occluded(rows: Rows) -> str:
        row = one(rows, images="all", start="class score", method="occlusion")
        return beside([row], "hit", method="occlusion")

    tail = "on the object; by chance; centre of the image (images)"
    yield Result(STEM, f"lowest probability under occlusion {tail}", occluded, NONE)
    for what, measure, start in (
        ("energy of the top layer's strongest units, deconvnet,", "energy", "unit"),
        ("energy of the class score's projection, deconvnet,", "energy", "class score"),
        ("largest value of the class score's projection, deconvnet,", "hit", "class score"),
    ):
        which = {"images": "all", "start": start, "method": "deconvnet"}
        yield Result(
            STEM,
            f"{what} {tail}",
            lambda rows, measure=measure, which=which: beside(rows, measure, **which),
        )


EXPERIMENT = Experiment(
    paper="section 4.2, and beyond the paper",
    notebooks=(STEM,),
    section="localisation",
    config=LocalisationConfig,
    check=check,
    possible=possible,
    results=results,
)
