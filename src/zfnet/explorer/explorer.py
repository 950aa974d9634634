"""The explorer: choose a net, an image, a layer and a map; see the map, its nine strongest images
and its projection; slide a square over the image.

    explorer = Explorer("photos")
    explorer.panel                       # the widget, for a notebook
    explorer.layer.value = 3             # what a click does, from code
    explorer.projection                  # the array behind the picture

Everything shown is an attribute: `map` (h, w), `projection` (3, S, S) and `top9` of the chosen map;
`clean` and `covered`, the classes' probabilities (classes,) without and with the square;
`covered_map` (h, w). They are those of `Deconvnet`, `scan` and the model's forward pass.
"""

from __future__ import annotations

import contextlib
import html
import io
import statistics
import time
from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np
import torch

from zfnet.data.files import read_image
from zfnet.data.load import load_data
from zfnet.explorer.click_picture import ClickPicture
from zfnet.graph.layers import paper_layers
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.feature_maps import strongest_channels
from zfnet.methods.occlusion import LiveOcclusion, Occlusion, occlude
from zfnet.methods.top_activations import load_scan
from zfnet.models.named import load_net
from zfnet.plots.contrast import contrast_scale, to_grey_centred, to_rgb
from zfnet.plots.panels import mosaic
from zfnet.plots.top9 import top9_tiles
from zfnet.store.errors import UserError
from zfnet.experiments import load_profile
from zfnet.store.profiles import profile_names


def ready_profiles() -> list[str]:
    """The profiles whose weights are on this machine, in a file: nothing has to be trained or
    downloaded for them.
    """
    names = []
    for name in profile_names():
        with contextlib.suppress(ValueError, TypeError):
            profile = load_profile(name)
            if (profile.given_weights or profile.weights_file).is_file():
                names.append(name)
    return names


class Explorer:
    """The widgets, each an attribute whose `value` may be set, and the arrays behind the pictures.

    profile: a name or .yaml file whose net is trained or given; image: which of the images that its
    top 9 are searched in; layer: the paper's number; channel: the map, by default the strongest of
    the image. Raises FileNotFoundError or ValueError, with the cure, where the net or its images
    are missing.
    """

    def __init__(
        self, profile: str = "photos", image: int = 0, layer: int = 5, channel: int | None = None
    ):
        ready = ready_profiles()
        whole = {"continuous_update": False, "style": {"description_width": "70px"}}
        live = {
            "continuous_update": True,
            "style": {"description_width": "70px"},
            "layout": widgets.Layout(width="300px"),
        }
        self.profile = widgets.Dropdown(
            options=ready if profile in ready else [profile, *ready],
            value=profile,
            description="profile",
        )
        self.image = widgets.IntSlider(0, 0, 0, description="image", **whole)
        self.upload = widgets.FileUpload(
            accept="image/*", description="your own image", layout=widgets.Layout(width="auto")
        )
        self.layer = widgets.ToggleButtons(
            options=[layer],
            description="layer",
            style={"button_width": "40px", "description_width": "60px"},
            layout=widgets.Layout(width="330px"),
        )
        self.channel = widgets.BoundedIntText(0, 0, 0, description="map")
        self.strongest = widgets.Dropdown(options=[("", None)], description="strongest")
        self.whole_map = widgets.Checkbox(False, description="project the whole map", indent=False)
        self.row, self.col = (
            widgets.IntSlider(0, 0, 0, description=name, **live)
            for name in ("unit's row", "column")
        )
        self.size = widgets.IntSlider(1, 1, 1, description="square", **live)
        self.top, self.left = (
            widgets.IntSlider(0, 0, 0, description=name, **live) for name in ("its top", "its left")
        )
        self.sweep = widgets.Button(
            description="every position",
            tooltip="slide the square over the whole image, as in Figure 7",
        )
        self.status, self.said = widgets.HTML(), widgets.HTML(layout=widgets.Layout(width="300px"))
        self.pictures = {
            name: ClickPicture(
                clickable=name in ("map", "covered"),
                sharp=name in ("map", "covered_map", "probability", "activity"),
            )
            for name in (
                "image",
                "map",
                "projection",
                "top9",
                "patches",
                "covered",
                "covered_map",
                "probability",
                "activity",
            )
        }
        self.swept: Occlusion | None = None
        self._busy = False
        self.panel = self._layout()
        self._open_profile(profile, image, layer, channel)
        for widget, do in (
            (self.profile, self._profile_chosen),
            (self.image, self._image_chosen),
            (self.upload, self._uploaded),
            (self.layer, self._see_layer),
            (self.channel, self._see_map),
            (self.strongest, self._strongest_chosen),
            (self.row, self._project),
            (self.col, self._project),
            (self.whole_map, self._project),
            (self.size, self._see_square),
            (self.top, self._cover),
            (self.left, self._cover),
        ):
            widget.observe(self._doing(do), "value")
        self.sweep.on_click(self._doing(self._sweep))
        self.pictures["map"].on_point(self._unit_clicked)
        self.pictures["covered"].on_point(self._square_clicked)

    # --- What was chosen ---

    def _doing(self, do):
        """An observer: does `do` unless the explorer itself is setting widgets, and says in the
        status line what is wrong.
        """

        def observer(change) -> None:
            if self._busy:
                return
            self.status.value = ""
            try:
                with self._setting():
                    do()
            except (ValueError, TypeError, OSError) as error:
                self.status.value = f'<span style="color:#b00020">{html.escape(str(error))}</span>'

        return observer

    @contextlib.contextmanager
    def _setting(self) -> Iterator[None]:
        """Widgets that the explorer sets itself start nothing."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _profile_chosen(self) -> None:
        name = self._name
        try:
            self._open_profile(self.profile.value)
        except (ValueError, TypeError, OSError):
            self.profile.value = name
            raise

    def _open_profile(
        self, name: str, image: int = 0, layer: int = 5, channel: int | None = None
    ) -> None:
        net = load_net(name)
        profile = load_profile(name)
        images = getattr(load_data(profile), profile.scan_split)
        layers = paper_layers(net.features)
        tables = load_scan(profile, net.model, images, list(layers.values()))
        if not 0 <= image < len(images):
            raise UserError(
                f"image {image}: choose 0 to {len(images) - 1}, the images that profile {name!r}"
                " searches"
            )
        if layer not in layers:
            raise UserError(
                f"no layer {layer!r}: this net has layers {', '.join(map(str, layers))}"
            )
        if channel is not None and not 0 <= channel < len(tables[layers[layer]].value):
            raise UserError(
                f"no channel {channel} in {layers[layer]}, which has channels 0 to"
                f" {len(tables[layers[layer]].value) - 1}"
            )
        self._name, self.net, self.images, self.layers, self.tables = (
            name,
            net,
            images,
            layers,
            tables,
        )
        self.deconvnet = Deconvnet(net.features)
        with self._setting():
            self.image.max, self.image.value = len(images) - 1, image
            self.layer.options = list(layers)
            self.layer.value = layer
            _bound(self.size, net.square.size, min(net.size, max(1, net.size // 2)))
            self._see_image(
                images.pictures([image])[0],
                images.names[image] if images.names else f"image {image}",
            )
            if channel is not None:
                self.channel.value = channel
                self._see_map()

    def _image_chosen(self) -> None:
        n = self.image.value
        self._see_image(
            self.images.pictures([n])[0],
            self.images.names[n] if self.images.names else f"image {n}",
        )

    def _uploaded(self) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[-1]
        try:
            pixels = read_image(io.BytesIO(bytes(file["content"])), self.net.size)
        except ValueError as error:
            raise UserError(f"{file['name']} is not an image that can be read ({error})") from None
        self._see_image(pixels, file["name"])

    def _strongest_chosen(self) -> None:
        if self.strongest.value is not None:
            self.channel.value = self.strongest.value
            self._see_map()

    def _unit_clicked(self, row: float, col: float) -> None:
        with self._setting():
            self.row.value, self.col.value = int(row), int(col)
            self.whole_map.value = False
            self._project()

    def _square_clicked(self, row: float, col: float) -> None:
        """The square's centre goes where the mouse is, as far as the image reaches."""
        with self._setting():
            for slider, where in ((self.top, row), (self.left, col)):
                slider.value = min(max(round(where - self.size.value / 2), 0), slider.max)
            self._cover()

    # --- What is seen ---

    def _see_image(self, pixels: torch.Tensor, title: str) -> None:
        """pixels uint8 (3, S, S)."""
        self.title, self.rgb = title, to_rgb(pixels)
        self.input = self.images.normalise(
            pixels.to(next(self.net.model.parameters()).device)[None]
        )[0]
        self.live = LiveOcclusion(self.net.model, self.input)
        self.clean = self.live.clean_logits.float().softmax(0)
        self.target, self.swept = int(self.clean.argmax()), None
        # from the middle of the image on, where photographs have their subject
        middle = (self.net.size - self.size.value) // 2
        for slider in (self.top, self.left):
            _bound(slider, middle, self.net.size - self.size.value, 0)
        self._see_layer()

    def _see_layer(self) -> None:
        self.name = self.layers[self.layer.value]
        self.field = receptive_field(self.net.features, self.name, self.net.size)
        self.maps = self.deconvnet.activations(self.input[None], self.name)[0].cpu()
        order = strongest_channels(self.maps, min(10, len(self.maps))).tolist()
        self.strongest.options = [
            (f"map {c}: total {float(self.maps[c].sum()):.4g}", c) for c in order
        ]
        self.strongest.value = order[0]
        _bound(self.channel, order[0], len(self.maps) - 1, 0)
        self._see_map()

    def _see_map(self) -> None:
        channel = self.channel.value
        if channel in (choice for _, choice in self.strongest.options):
            self.strongest.value = channel
        self.map, self.swept = self.maps[channel], None
        row, col = divmod(int(self.map.argmax()), self.map.shape[1])
        for slider, value, count in (
            (self.row, row, self.map.shape[0]),
            (self.col, col, self.map.shape[1]),
        ):
            _bound(slider, value, count - 1, 0)
        self.live.follow(self.name, channel)
        self.top9 = tuple(
            tiles[0]
            for tiles in top9_tiles(
                self.deconvnet,
                self.images,
                self.name,
                self.tables[self.name],
                torch.tensor([channel]),
            )
        )
        for name, tiles in zip(("top9", "patches"), self.top9, strict=True):
            self.pictures[name].show(mosaic(tiles, 3, max(1, tiles[0].shape[0] // 40)))
        self._project()
        self._cover()

    def _project(self) -> None:
        unit = (self.row.value, self.col.value)
        self.unit = None if self.whole_map.value else unit
        self.projection = self.deconvnet.project(
            self.input[None], self.name, self.channel.value, self.unit
        )[0].cpu()
        self.box = self.field.box(*unit)
        top, left, bottom, right = self.box
        seen = [] if self.whole_map.value else [(top, left, bottom - top, right - left)]
        self.pictures["image"].show(self.rgb, seen)
        self.pictures["map"].show(
            _grey(self.map, self.map), [] if self.whole_map.value else [(*unit, 1, 1)]
        )
        self.pictures["projection"].show(
            to_grey_centred(self.projection, contrast_scale(self.projection)), seen
        )

    def _see_square(self) -> None:
        centre = [
            slider.value + (self.net.size - slider.max) / 2 for slider in (self.top, self.left)
        ]
        room = self.net.size - self.size.value
        for slider, middle in zip((self.top, self.left), centre, strict=True):
            _bound(slider, min(max(round(middle - self.size.value / 2), 0), room), room, 0)
        self.swept = None
        self._cover()

    def _cover(self) -> None:
        """One position of the square: the part that has to keep up with the mouse."""
        started = time.perf_counter()
        top, left, size = self.top.value, self.left.value, self.size.value
        logits, self.covered_map = self.live.at(top, left, size)
        self.covered = logits.float().softmax(0)
        self.seconds = time.perf_counter() - started
        picture = self.rgb.copy()
        mean = np.broadcast_to((self.images.mean / 255).movedim(0, -1).numpy(), picture.shape)
        self.covered_rgb = picture
        picture[top : top + size, left : left + size] = mean[top : top + size, left : left + size]
        self.pictures["covered"].show(picture, [(top, left, size, size)])
        self.pictures["covered_map"].show(_grey(self.covered_map, self.map))
        self.said.value = self._report()
        self._show_sweep()

    def _sweep(self) -> None:
        """Every position, as in Figure 7."""
        stride = max(1, min(self.net.square.stride, self.size.value))
        self.swept = occlude(
            self.net.model,
            self.input,
            self.target,
            self.size.value,
            stride,
            layer=self.name,
            channel=self.channel.value,
        )
        self._show_sweep()

    def _show_sweep(self) -> None:
        import matplotlib

        for name, top in (("probability", 1.0), ("activity", None)):
            if self.swept is None:
                self.pictures[name].show(np.ones((8, 8, 3)))
                continue
            grid = getattr(self.swept, name).numpy()
            frame = [
                (
                    *(
                        int((found - at.value).abs().argmin())
                        for found, at in (
                            (self.swept.tops, self.top),
                            (self.swept.lefts, self.left),
                        )
                    ),
                    1,
                    1,
                )
            ]
            self.pictures[name].show(
                matplotlib.colormaps["jet"](grid / (top or float(grid.max()) or 1.0))[..., :3],
                frame,
            )

    @property
    def activity(self) -> tuple[float, float]:
        """The map's total activity without and with the square."""
        return float(self.map.sum()), float(self.covered_map.sum())

    def _report(self) -> str:
        """What the square changes, as a table."""
        rows = [
            (self.net.called(c), f"{float(self.clean[c]):.3f}", f"{float(self.covered[c]):.3f}")
            for c in self.classes_shown()
        ]
        rows.append(
            (f"map {self.channel.value}, total", *(f"{total:.4g}" for total in self.activity))
        )
        lines = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{before}</td><td>{after}</td></tr>"
            for name, before, after in rows
        )
        return f"<table><tr><th></th><th>clean&emsp;</th><th>covered</th></tr>{lines}</table>{self.seconds * 1e3:.0f} ms"

    @torch.no_grad()
    def latency(self, count: int = 20, seed: int = 0) -> dict[str, float]:
        """The square at `count` random positions, live and by the net's own forward pass on the
        covered image, in turn: the median seconds of either, and the largest difference of a
        probability.
        """
        generator, size, spent, difference = (
            torch.Generator().manual_seed(seed),
            self.size.value,
            ([], []),
            0.0,
        )
        for corner in torch.randint(
            self.net.size - size + 1, (count + 2, 2), generator=generator
        ).tolist():
            started = time.perf_counter()
            live = self.live.at(*corner, size)[0].softmax(0)
            between = time.perf_counter()
            image = self.input.clone()
            image[:, corner[0] : corner[0] + size, corner[1] : corner[1] + size] = 0
            full = self.net.model(image[None])[0].cpu().softmax(0)
            for times, seconds in zip(
                spent, (between - started, time.perf_counter() - between), strict=True
            ):
                times.append(seconds)
            difference = max(difference, float((live - full).abs().max()))
        live, full = (statistics.median(times[2:]) for times in spent)  # the first two warm up
        return {"live": live, "full pass": full, "difference": difference}

    def classes_shown(self, count: int = 5) -> list[int]:
        """The most probable classes without the square, and the most probable one with it."""
        best = self.clean.topk(min(count, len(self.clean))).indices.tolist()
        now = int(self.covered.argmax())
        return best if now in best else [*best[: count - 1], now]

    def figure(self):
        """What the panel shows, as a figure that needs no kernel; every position of the square is
        worked out where it has not been yet.
        """
        from zfnet.explorer.figure import explorer_figure

        if self.swept is None:
            with self._setting():
                self._sweep()
        return explorer_figure(self)

    def _layout(self) -> widgets.VBox:
        heads = {
            "image": "image, and what the unit sees",
            "map": "map: click a unit",
            "projection": "projection",
            "top9": "top 9, projected",
            "patches": "top 9, patches",
            "covered": "drag the square",
            "covered_map": "the map then",
            "probability": "p(first guess), every position",
            "activity": "activity, every position",
        }
        shown = {
            name: widgets.VBox(
                [widgets.HTML(f"<small>{text}</small>"), self.pictures[name]],
                layout=widgets.Layout(margin="0 8px 0 0"),
            )
            for name, text in heads.items()
        }
        return widgets.VBox(
            [
                widgets.HBox([self.profile, self.image, self.upload]),
                widgets.HBox([self.layer, self.channel, self.strongest]),
                self.status,
                widgets.HBox(
                    [shown[name] for name in ("image", "map", "projection", "top9", "patches")]
                ),
                widgets.HBox([self.row, self.col, self.whole_map]),
                widgets.HBox(
                    [
                        *(
                            shown[name]
                            for name in ("covered", "covered_map", "probability", "activity")
                        ),
                        self.said,
                    ]
                ),
                widgets.HBox([self.top, self.left, self.size, self.sweep]),
            ]
        )


def _bound(widget, value: int, high: int, low: int = 1) -> None:
    """Give an integer widget its range and value in an order that is valid at every step."""
    widget.min = min(widget.min, low)
    widget.max = max(high, widget.max)
    widget.value = value
    widget.min, widget.max = low, high


def _grey(maps: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """A map with black at 0 and white at the largest value of `scale`."""
    return (maps / max(float(scale.max()), 1e-12)).clamp(0, 1).numpy()
