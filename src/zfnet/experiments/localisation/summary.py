"""What the measurements of `compute.py` say: a table with intervals, and sentences made from it."""

import torch

from zfnet.experiments.localisation.compute import CENTRE, CHANCE, SQUARE, Localisation
from zfnet.store.errors import require


def interval(values: torch.Tensor, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of values (N,), images drawn with
    replacement: (low, high).
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (draws, len(values)), generator=generator)
    low, high = values.double()[drawn].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    return float(low), float(high)


def table(found: Localisation) -> list[dict[str, object]]:
    """One row for each picture: mean and standard error over images of each measure, the mean of
    chance and of the centre of the image on the same images, and the interval of the paired
    difference to the centre. First over all images, then over those whose target is the net's first
    guess, where they are others and more than one.
    """
    rows, groups = [], {"all": torch.ones_like(found.first)}
    if 1 < found.first.sum() < len(found.first):
        groups["first guess right"] = found.first
    place = {row: n for n, row in enumerate(found.rows)}
    for name, chosen in groups.items():
        for (start, layer, method), n in place.items():
            if not start:
                continue
            row = {"images": name, "start": start, "layer": layer, "method": method, "n": 0}
            by_chance = SQUARE if method == "occlusion" else CHANCE
            for measure, values in found.values.items():
                there = chosen & ~values[n].isnan()
                own, chance, centre = (
                    values[place[each]][there]
                    for each in ((start, layer, method), ("", "", by_chance), ("", "", CENTRE))
                )
                row["n"] = max(row["n"], len(own))
                columns = [f"{measure}{each}" for each in ("", " se", " chance", " centre")]
                columns += [f"{measure} minus centre {end}" for end in ("low", "high")]
                numbers = [""] * len(columns)
                if len(own) > 1:
                    numbers = [
                        own.mean(),
                        own.std() / len(own) ** 0.5,
                        chance.mean(),
                        centre.mean(),
                        *interval(own - centre),
                    ]
                    numbers = [f"{float(number):.4f}" for number in numbers]
                row |= dict(zip(columns, numbers, strict=True))
            rows.append(row)
    return rows


def verdict(rows: list[dict[str, object]], measure: str = "energy") -> list[str]:
    """What the table says of each method against the centre of the image, in a line each: where it
    loses to it, where it beats it (the 95 % interval of the difference leaves out 0), and where the
    images do not decide.
    """
    words = {"energy": "energy inside the mask", "hit": "largest value on the mask"}
    words |= {"near": "largest value on the mask or near it"}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        said: dict[str, list[str]] = {"loses to": [], "is level with": [], "beats": []}
        for row in rows:
            if row["images"] != "all" or row["method"] != method or not row[measure]:
                continue
            low, high = (float(row[f"{measure} minus centre {end}"]) for end in ("low", "high"))
            how = "loses to" if high < 0 else "beats" if low > 0 else "is level with"
            what = f"layer {row['layer']} {row['start']}" if row["layer"] else row["start"]
            gap = float(row[measure]) - float(row[f"{measure} centre"])
            said[how].append(f"{what} ({100 * gap:+.0f})")
        parts = [f"{how} the centre: {', '.join(some)}" for how, some in said.items() if some]
        if parts:
            lines.append(f"{method}, {words[measure]}, points: {'; '.join(parts)}")
    return lines


def extremes(found: Localisation, measure: str = "energy") -> list[int]:
    """Three images to look at, chosen by a rule: with the largest, the middle and the smallest
    value of a measure of the class score's deconvnet picture.
    """
    values = found.values[measure][found.rows.index(("class score", "", "deconvnet"))]
    order = [n for n in values.argsort(descending=True).tolist() if not values[n].isnan()]
    require(order, "no image has a picture of its class score")
    return [order[0], order[len(order) // 2], order[-1]]


def overview(found: Localisation, rows: list[dict[str, object]]) -> list[str]:
    """The table over all images as lines of text, in per cent, below what its baselines give."""

    def number(row: dict[str, object], measure: str) -> str:
        if row[measure] == "":
            return "-"
        return f"{100 * float(row[measure]):.1f} ± {100 * float(row[f'{measure} se']):.1f}"

    def line(*cells: str) -> str:
        return f"{cells[0]:12}{cells[1]:14}" + "".join(f"{cell:>14}" for cell in cells[2:])

    n, fell = len(found.first), found.probability - found.lowest
    lines = [
        f"the class followed is the net's first guess in {int(found.first.sum())} of {n} images;"
        f" median probability {found.probability.median():.2f}, which the square lowers by"
        f" {fell.median():.2f} (median)",
        line("", "", "energy", "on the object", f"within {found.tolerance} px"),
    ]
    for name, key in (("chance", ("", "", CHANCE)), ("centre", ("", "", CENTRE))):
        at = found.rows.index(key)
        lines.append(line(name, "", *(f"{100 * v[at].mean():.1f}" for v in found.values.values())))
    at = found.rows.index(("", "", SQUARE))
    means = [f"{100 * found.values[measure][at].mean():.1f}" for measure in ("hit", "near")]
    lines.append(line("chance", "of a square", "-", *means))
    for row in (row for row in rows if row["images"] == "all"):
        what = f"layer {row['layer']} {row['start']}" if row["layer"] else str(row["start"])
        lines.append(line(str(row["method"]), what, *(number(row, m) for m in found.values)))
    return lines
