"""What the gallery's pages say: one record per feature map, the same for the page, its table and
its CSV; and the pages, from Jinja2 templates.

The pages work from a folder, without a server: data stands in them as JSON, nothing is fetched, no
script or font comes from elsewhere.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch

from zfnet.data.images import Images
from zfnet.gallery.ranges import Range
from zfnet.gallery.sprites import SMALL, suffix
from zfnet.graph.windows import ReceptiveField
from zfnet.methods.top_activations import TopActivations
from zfnet.plots.panels import CONTRAST
from zfnet.plots.top9 import random_maps
from zfnet.store import artefacts
from zfnet.store.profiles import Profile

HERE = Path(__file__).parent
ALIKE = 8  # other maps shown beside one
SAMPLES = 6  # maps of each layer on the first page


@dataclass(frozen=True)
class Layer:
    """All that is known of one layer of the paper: its number and name, its units' receptive field,
    its scan and its maps' ranges.
    """

    number: int
    name: str
    field: ReceptiveField
    top: TopActivations
    range: Range

    @property
    def tile(self) -> int:
        """Side of a patch in pixels: the receptive field's, or the image's if that is smaller."""
        return min(self.field.size[0], self.field.input_size[0])


def short(value: torch.Tensor) -> float:
    """A float32 as the decimal with the fewest digits that is the same float32."""
    return float(str(np.float32(value)))


def record(layer: Layer, channel: int, images: Images) -> dict:
    """One feature map: its nine units, best first, in equally long lists (value, image, row, col,
    and box, the receptive field: top, left, bottom, right); `low`, `high`, `fires`, `histogram` as
    in Range; `alive`, how many of the nine are above zero; `classes`, [label, count] of these, most
    frequent first.
    """
    units = {
        name: tensor[channel].tolist()
        for name, tensor in vars(layer.top).items()
        if name != "value"
    }
    value = [short(v) for v in layer.top.value[channel]]
    alive = sum(v > 0 for v in value)
    counts = Counter(int(images.labels[index]) for index in units["image"][:alive])
    box = [layer.field.box(*unit) for unit in zip(units["row"], units["col"], strict=True)]
    return {
        "channel": channel,
        "value": value,
        **units,
        "box": box,
        "low": short(layer.range.low[channel]),
        "high": short(layer.range.high[channel]),
        "fires": int(layer.range.fires[channel]),
        "histogram": layer.range.histogram[channel].tolist(),
        "alive": alive,
        "classes": sorted(counts.items(), key=lambda one: (-one[1], one[0])),
    }


def corner(layer: Layer, row: int, col: int) -> tuple[int, int]:
    """Row and column of a unit's tile in its image: negative where it reaches beyond the border;
    (0, 0) where it shows the image whole.
    """
    if layer.tile == layer.field.input_size[0]:
        return 0, 0
    return tuple(
        offset + unit * stride
        for unit, stride, offset in zip(
            (row, col), layer.field.stride, layer.field.offset, strict=True
        )
    )


def places(layer: Layer, units: dict) -> list[dict]:
    """Where each unit's tile lies on its image, in percent of the image's side: left, top, size;
    and its receptive field, left, top, width, height.
    """
    side, found = layer.field.input_size[0], []
    for row, col, (top, left, bottom, right) in zip(
        units["row"], units["col"], units["box"], strict=True
    ):
        tile_top, tile_left = corner(layer, row, col)
        pixels = {
            "top": tile_top,
            "left": tile_left,
            "size": layer.tile,
            "box_top": top,
            "box_left": left,
            "box_height": bottom - top,
            "box_width": right - left,
        }
        found.append({name: round(100 * n / side, 4) for name, n in pixels.items()})
    return found


def beyond(layer: Layer, units: dict) -> str:
    """What of the nine tiles, three by three, lies beyond the image's border, as the path of an SVG
    in pixels: the page's colour covers the white there.
    """
    tile, side, path = layer.tile, layer.field.input_size[0], []
    for n, (row, col) in enumerate(zip(units["row"], units["col"], strict=True)):
        top, left = corner(layer, row, col)
        y, x = n // 3 * tile, n % 3 * tile
        # rows, then columns: what lies before the image's border, and what lies after it
        path += [
            f"M{x} {y + start}h{tile}v{end - start}h-{tile}z"
            for start, end in ((0, -top), (side - top, tile))
            if start < end
        ]
        path += [
            f"M{x + start} {y}h{end - start}v{tile}h-{end - start}z"
            for start, end in ((0, -left), (side - left, tile))
            if start < end
        ]
    return "".join(path)


def alike(
    layers: list[Layer], count: int = ALIKE
) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
    """For each (layer, channel) the other maps with the most images in common among the nine that
    make it fire: (layer, channel, images in common).

    Most first, then by layer and channel; maps with fewer than two in common are left out: one is
    often chance.
    """
    keys = [(layer.number, channel) for layer in layers for channel in range(len(layer.top.value))]
    fires = torch.cat([layer.top.value > 0 for layer in layers])
    known, place = torch.cat([layer.top.image for layer in layers]).unique(return_inverse=True)
    likes = torch.zeros(len(keys), len(known)).scatter_add_(1, place, fires.float())
    result = {}
    for n, key in enumerate(keys):
        common = likes @ likes[n]
        common[n] = 0
        order = common.argsort(descending=True, stable=True)[:count]
        result[key] = [(*keys[m], int(common[m])) for m in order.tolist() if common[m] >= 2]
    return result


def bars(histogram: list[int], width: int = 128, height: int = 20) -> str:
    """A histogram as the path of an SVG of that size; a bar's height is the square root of its
    count.
    """
    most, step = max(1, *histogram) ** 0.5, width / len(histogram)  # the tallest bar fills it
    tops = [round(height * (1 - n**0.5 / most), 2) for n in histogram]
    return "".join(
        f"M{i * step:g} {height}V{top:g}h{step * 0.8:g}V{height}z"
        for i, top in enumerate(tops)
        if top < height
    )


def three(value: float) -> str:
    """Three significant digits, for reading."""
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def write_pages(
    folder: Path, layers: list[Layer], images: Images, profile: Profile, made: dict
) -> None:
    """Write every page, and the style and script that they share, to `folder`, where the pictures
    are or will be.
    """
    for old in (*folder.glob("*.html"), *folder.glob("layer-*/*.html")):
        old.unlink()
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    for path in (HERE / "assets").iterdir():
        shutil.copyfile(path, folder / "assets" / path.name)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"three": three, "bars": bars}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    maps = {
        layer.number: [record(layer, channel, images) for channel in range(len(layer.top.value))]
        for layer in layers
    }
    # an image's own name, or its place in the data set
    names = images.names or [f"{profile.scan_split} image {n}" for n in range(len(images))]
    environment.globals |= {
        "names": names,
        "labels": images.labels.tolist(),
        "profile": profile,
        "layers": layers,
        "maps": maps,
        "made": made,
        "count": len(images),
        "split": profile.scan_split,
        "classes": images.classes,
        "size": images.size,
        "contrast": CONTRAST,
        "small": SMALL,
        "suffix": suffix,
        "beyond": beyond,
        "site": {"layers": {layer.number: len(layer.top.value) for layer in layers}},
    }
    samples = {
        layer.number: random_maps(layer.top, SAMPLES, profile.seed).tolist() for layer in layers
    }
    _write(folder / "index.html", environment, "index.html", root="", samples=samples)
    others = alike(layers)
    for layer in layers:
        _write(
            folder / f"layer-{layer.number}.html",
            environment,
            "layer.html",
            root="",
            layer=layer,
            data=_data(layer, maps[layer.number], images, names),
        )
        for one in maps[layer.number]:
            _write(
                folder / f"layer-{layer.number}" / f"{one['channel']}.html",
                environment,
                "channel.html",
                root="../",
                layer=layer,
                map=one,
                places=places(layer, one),
                channels=len(maps[layer.number]),
                alike=others[layer.number, one["channel"]],
                data=_data(layer, [one], images, names),
            )


def _data(layer: Layer, maps: list[dict], images: Images, names: list[str]) -> dict:
    """What a page's script works with: maps as `record` gives them, and the names and labels of
    their images.
    """
    used = sorted({index for one in maps for index in one["image"]})
    return {
        "layer": layer.number,
        "classes": list(images.classes),
        "names": {index: names[index] for index in used},
        "labels": {index: int(images.labels[index]) for index in used},
        "maps": [{key: value for key, value in one.items() if key != "histogram"} for one in maps],
    }


def _write(path: Path, environment: jinja2.Environment, template: str, **values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with artefacts.atomic(path) as temporary:
        temporary.write_text(environment.get_template(template).render(**values), encoding="utf-8")
