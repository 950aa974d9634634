"""The explorer: choose a net, an image, a layer and a map; see the map, its nine strongest images
and its projection; slide a square over the image.

    explorer = Explorer("photos")
    explorer.panel                       # the widget, for a notebook
    explorer.layer.value = 3             # what a click does, from code
    explorer.projection                  # the array behind the picture

Everything shown is an attribute, too: those of the explorer's `State`.
"""

import html
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.explorer.click_picture import ClickPicture
from zfnet.explorer.figure import explorer_figure
from zfnet.explorer.state import State, ready_profiles
from zfnet.plots import drawn, mosaic
from zfnet.store.errors import UserError

HEADS = {
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
CLICKABLE = ("map", "covered")
SHARP = ("map", "covered_map", "probability", "activity")  # every value a square
WIDE = {"description_width": "70px"}


class Explorer:
    """The widgets, each an attribute whose `value` may be set, around a `State`, whose attributes
    are the explorer's.

    profile, image, layer, channel: as for `State`. Raises FileNotFoundError or UserError, with the
    cure, where the net or its images are missing.
    """

    def __init__(
        self, profile: str = "photos", image: int = 0, layer: int = 5, channel: int | None = None
    ):
        self.state = State(profile, image, layer, channel)
        self._busy = False
        self._make_widgets(profile)
        self.panel = self._layout()
        self._show()
        self.profile.observe(self._doing(self._profile_chosen, self._show), "value")
        self.upload.observe(self._doing(self._uploaded, self._show), "value")
        # what of the state a widget changes, given its value and those beside it
        for method, show, *group in (
            ("choose_image", self._show, self.image),
            ("choose_layer", self._show, self.layer),
            ("choose_map", self._show, self.channel),
            ("choose_map", self._show, self.strongest),
            ("choose_unit", self._show_unit, self.row, self.col, self.whole_map),
            ("resize_square", self._show_square, self.size),
            ("choose_square", self._show_square, self.top, self.left),
        ):
            do = self._doing(
                lambda method=method, group=group: getattr(self.state, method)(
                    *(widget.value for widget in group)
                ),
                show,
            )
            for widget in group:
                widget.observe(do, "value")
        self.sweep.on_click(self._doing(lambda: self.state.sweep(), self._show_square))
        self.pictures["map"].on_point(
            lambda row, col: self._clicked(self._show_unit, "choose_unit", int(row), int(col))
        )
        self.pictures["covered"].on_point(
            lambda row, col: self._clicked(self._show_square, "centre_square", row, col)
        )

    def __getattr__(self, name: str):
        """What is no widget is the state's."""
        if name == "state":  # not there yet
            raise AttributeError(name)
        return getattr(self.state, name)

    # --- What was chosen ---

    def _doing(self, do: Callable[[], None], show: Callable[[], None]):
        """An observer: does `do` and shows what came of it, unless the explorer itself is setting
        widgets; says in the status line what is wrong, and the widgets go back.
        """

        def observer(change) -> None:
            if self._busy:
                return
            self.status.value = ""
            try:
                do()
            except (UserError, OSError) as error:
                self.status.value = f'<span style="color:#b00020">{html.escape(str(error))}</span>'
                self._set()
            else:
                show()

        return observer

    def _profile_chosen(self) -> None:
        self.state = State(self.profile.value, whole=self.state.whole)

    def _uploaded(self) -> None:
        if self.upload.value:
            file = self.upload.value[-1]
            self.state.open_image(file["name"], bytes(file["content"]))

    def _clicked(self, show: Callable[[], None], method: str, *place: float) -> None:
        getattr(self.state, method)(*place)
        show()

    # --- What is seen ---

    def _set(self) -> None:
        """Give every widget the state's value; that starts nothing."""
        state, (rows, cols) = self.state, self.state.map.shape
        room = state.net.size - state.size
        strongest = tuple(
            (f"map {c}: total {float(state.maps[c].sum()):.4g}", c) for c in state.strongest
        )
        self._busy = True
        try:
            self.profile.value = state.profile
            self.whole_map.value = state.whole
            for choice, options, value in (
                (self.layer, tuple(state.layers), state.layer),
                (self.strongest, strongest, state.channel),
            ):
                if choice.options != options:
                    choice.options = options
                if choice is self.layer or value in state.strongest:
                    choice.value = value
            for widget, value, low, high in (
                (self.image, state.image, 0, len(state.images) - 1),
                (self.channel, state.channel, 0, len(state.maps) - 1),
                (self.row, state.row, 0, rows - 1),
                (self.col, state.col, 0, cols - 1),
                (self.size, state.size, 1, state.largest),
                (self.top, state.top, 0, room),
                (self.left, state.left, 0, room),
            ):
                # in an order that is valid at every step
                widget.min, widget.max = min(widget.min, low), max(high, widget.max)
                widget.value = value
                widget.min, widget.max = low, high
        finally:
            self._busy = False

    def _show(self) -> None:
        for name, tiles in zip(("top9", "patches"), self.state.top9, strict=True):
            self.pictures[name].show(mosaic(tiles, 3, max(1, tiles[0].shape[0] // 40)))
        self._show_unit()
        self._show_square()

    def _show_unit(self) -> None:
        self._set()
        state, (top, left, bottom, right) = self.state, self.state.box
        seen = [] if state.whole else [(top, left, bottom - top, right - left)]
        self.pictures["image"].show(state.rgb, seen)
        self.pictures["map"].show(
            _grey(state.map, state.map), [(*state.unit, 1, 1)] if state.unit else []
        )
        self.pictures["projection"].show(drawn(state.projection), seen)

    def _show_square(self) -> None:
        self._set()
        state = self.state
        self.pictures["covered"].show(
            state.covered_rgb, [(state.top, state.left, state.size, state.size)]
        )
        self.pictures["covered_map"].show(_grey(state.covered_map, state.map))
        for name, top in (("probability", 1.0), ("activity", None)):
            if state.swept is None:
                self.pictures[name].show(np.ones((8, 8, 3)))
                continue
            grid = getattr(state.swept, name).numpy()
            colours = plt.get_cmap("viridis")(grid / (top or float(grid.max()) or 1.0))
            self.pictures[name].show(colours[..., :3], [(*state.nearest, 1, 1)])
        # what the square changes, as a table
        rows = [
            (state.net.called(c), f"{float(state.clean[c]):.3f}", f"{float(state.covered[c]):.3f}")
            for c in state.classes_shown()
        ]
        rows.append((f"map {state.channel}, total", *(f"{n:.4g}" for n in state.activity)))
        lines = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{before}</td><td>{after}</td></tr>"
            for name, before, after in rows
        )
        self.said.value = (
            f"<table><tr><th></th><th>clean&emsp;</th><th>covered</th></tr>{lines}</table>"
            f"{state.seconds * 1e3:.0f} ms"
        )

    def figure(self) -> plt.Figure:
        """What the panel shows, as a figure that needs no kernel; every position of the square is
        worked out where it has not been yet.
        """
        if self.state.swept is None:
            self.state.sweep()
            self._show_square()
        return explorer_figure(self.state)

    # --- The widgets ---

    def _make_widgets(self, profile: str) -> None:
        """Ranges and values are the state's, given by `_set`."""
        ready = ready_profiles()
        live = {"style": WIDE, "layout": widgets.Layout(width="300px")}
        self.profile = widgets.Dropdown(
            options=ready if profile in ready else [profile, *ready],
            value=profile,
            description="profile",
        )
        self.image = widgets.IntSlider(
            0, 0, 0, description="image", continuous_update=False, style=WIDE
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="your own image", layout=widgets.Layout(width="auto")
        )
        self.layer = widgets.ToggleButtons(
            description="layer",
            style={"button_width": "40px", "description_width": "60px"},
            layout=widgets.Layout(width="330px"),
        )
        self.channel = widgets.BoundedIntText(0, 0, 0, description="map")
        self.strongest = widgets.Dropdown(description="strongest")
        self.whole_map = widgets.Checkbox(False, description="project the whole map", indent=False)
        self.row, self.col, self.size, self.top, self.left = (
            widgets.IntSlider(1, 1, 1, description=name, **live)
            for name in ("unit's row", "column", "square", "its top", "its left")
        )
        self.sweep = widgets.Button(
            description="every position",
            tooltip="slide the square over the whole image, as in Figure 7",
        )
        self.status, self.said = widgets.HTML(), widgets.HTML(layout=widgets.Layout(width="300px"))
        self.pictures = {
            name: ClickPicture(clickable=name in CLICKABLE, sharp=name in SHARP) for name in HEADS
        }

    def _layout(self) -> widgets.VBox:
        margin = widgets.Layout(margin="0 8px 0 0")
        pictures = [
            widgets.VBox(
                [widgets.HTML(f"<small>{text}</small>"), self.pictures[name]], layout=margin
            )
            for name, text in HEADS.items()
        ]
        return widgets.VBox(
            [
                widgets.HBox([self.profile, self.image, self.upload]),
                widgets.HBox([self.layer, self.channel, self.strongest]),
                self.status,
                widgets.HBox(pictures[:5]),
                widgets.HBox([self.row, self.col, self.whole_map]),
                widgets.HBox([*pictures[5:], self.said]),
                widgets.HBox([self.top, self.left, self.size, self.sweep]),
            ]
        )


def _grey(maps: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """A map with black at 0 and white at the largest value of `scale`."""
    return (maps / max(float(scale.max()), 1e-12)).clamp(0, 1).numpy()
