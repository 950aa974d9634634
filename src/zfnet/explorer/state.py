"""What an explorer has chosen and computed: a net, an image, a layer and a map, a unit of it, and a
square on the image. No widgets: `panel.py` shows it.

    state = State("photos")
    state.choose_layer(3)
    state.projection                     # (3, S, S), of the map's strongest unit
    state.choose_square(top=10, left=20)
    state.covered                        # the classes' probabilities with the square there

Everything is an attribute: `map` (h, w), `projection` (3, S, S) and `top9` of the chosen map;
`clean` and `covered`, the classes' probabilities (classes,) without and with the square;
`covered_map` (h, w). They are those of `Deconvnet`, `scan` and the model's forward pass.
"""

import contextlib
import io
import statistics
import time

import torch

from zfnet.data import files, load
from zfnet.graph import trace, windows
from zfnet.methods import deconv, feature_maps, occlusion, top_activations
from zfnet.models.named import load_net
from zfnet.plots import covered, to_rgb, top9_tiles
from zfnet.store import errors, profiles


def ready_profiles() -> list[str]:
    """The profiles whose weights are on this machine, in a file: nothing has to be trained or
    downloaded for them.
    """
    names = []
    for name in profiles.profile_names():
        with contextlib.suppress(errors.UserError):
            profile = profiles.read_profile(name)
            if (profile.given_weights or profile.weights_file).is_file():
                names.append(name)
    return names


class State:
    """What is chosen, by the methods below, and what follows from it.

    profile: a name or .yaml file whose net is trained or given; image: which of the images that its
    top 9 are searched in; layer: the paper's number; channel: the map, by default the strongest of
    the image; whole: project the whole map instead of a unit. Raises FileNotFoundError or
    UserError, with the cure, where the net or its images are missing.
    """

    swept: occlusion.Occlusion | None  # every position of the square, once `sweep` was called

    def __init__(
        self,
        profile: str = "photos",
        image: int = 0,
        layer: int = 5,
        channel: int | None = None,
        whole: bool = False,
    ):
        self.net, config = load_net(profile), profiles.read_profile(profile)
        self.profile, self.whole = profile, whole
        self.images = getattr(load.load_data(config), config.scan_split)
        self.layers = trace.paper_layers(self.net.model)
        self.tables = top_activations.load_scan(
            config, self.net.model, self.images, list(self.layers.values())
        )
        self.deconvnet = deconv.Deconvnet(self.net.model)
        errors.require(
            layer in self.layers,
            f"no layer {layer!r}: this net has layers {', '.join(map(str, self.layers))}",
        )
        name, channels = self.layers[layer], len(self.tables[self.layers[layer]].value)
        errors.require(
            channel is None or 0 <= channel < channels,
            f"no channel {channel} in {name}, which has channels 0 to {channels - 1}",
        )
        self.largest = min(self.net.size, max(1, self.net.size // 2))  # side of the square
        self.layer, self.size = layer, min(self.net.square.size, self.largest)
        self.choose_image(image)
        if channel is not None:
            self.choose_map(channel)

    # --- What is chosen ---

    def choose_image(self, image: int) -> None:
        """One of the images that the top 9 are searched in; UserError where there is none."""
        errors.require(
            0 <= image < len(self.images),
            f"image {image}: choose 0 to {len(self.images) - 1}, the images that profile"
            f" {self.profile!r} searches",
        )
        self._see(
            self.images.pictures([image])[0],
            self.images.names[image] if self.images.names else f"image {image}",
        )
        self.image = image

    def open_image(self, title: str, content: bytes) -> None:
        """A file of the user's own; UserError where it cannot be read."""
        try:
            pixels = files.read_image(io.BytesIO(content), self.net.size)
        except errors.UserError as error:
            raise errors.UserError(f"{title} is not an image that can be read ({error})") from error
        self._see(pixels, title)

    def choose_layer(self, layer: int) -> None:
        """A layer by the paper's number, and in it the map with the largest total."""
        self.layer, self.name = layer, self.layers[layer]
        self.field = windows.receptive_field(self.net.model, self.name, self.net.size)
        self.maps = self.deconvnet.activations(self.input[None], self.name)[0].cpu()
        self.strongest = feature_maps.strongest_channels(
            self.maps, min(10, len(self.maps))
        ).tolist()
        self.choose_map(self.strongest[0])

    def choose_map(self, channel: int) -> None:
        """A map of the layer, and in it the strongest unit."""
        self.channel, self.map, self.swept = channel, self.maps[channel], None
        self.live.follow(self.name, channel)
        table, chosen = self.tables[self.name], torch.tensor([channel])
        tiles = top9_tiles(self.deconvnet, self.images, self.name, table, chosen)
        self.top9 = tuple(of_channels[0] for of_channels in tiles)  # projections and patches
        self.choose_unit(*divmod(int(self.map.argmax()), self.map.shape[1]), self.whole)
        self.choose_square(self.top, self.left)

    def choose_unit(self, row: int, col: int, whole: bool = False) -> None:
        """A unit of the map to project, or with `whole` the whole map."""
        self.row, self.col, self.whole = row, col, whole
        self.box, self.unit = self.field.box(row, col), None if whole else (row, col)
        self.projection = self.deconvnet.project(
            self.input[None], self.name, self.channel, self.unit
        )[0].cpu()

    def choose_square(self, top: int, left: int) -> None:
        """One position of the square: the part that has to keep up with the mouse."""
        started, size = time.perf_counter(), self.size
        self.top, self.left = top, left
        logits, self.covered_map = self.live.at(top, left, size)
        self.covered = logits.float().softmax(0)
        self.seconds = time.perf_counter() - started
        self.covered_rgb = covered(self.rgb, self.images.mean, top, left, size)

    def centre_square(self, row: float, col: float) -> None:
        """The square's centre goes to this place, as far as the image reaches."""
        places = (max(round(where - self.size / 2), 0) for where in (row, col))
        self.choose_square(*(min(place, self.net.size - self.size) for place in places))

    def resize_square(self, size: int) -> None:
        """The square grows or shrinks around its centre."""
        centre = self.top + self.size / 2, self.left + self.size / 2
        self.size, self.swept = size, None
        self.centre_square(*centre)

    def sweep(self) -> None:
        """Slide the square over the whole image, as in Figure 7."""
        self.swept = occlusion.occlude(
            self.net.model,
            self.input,
            self.target,
            self.size,
            max(1, min(self.net.square.stride, self.size)),
            layer=self.name,
            channel=self.channel,
        )

    def _see(self, pixels: torch.Tensor, title: str) -> None:
        """An image, pixels uint8 (3, S, S), and all that follows from it."""
        device = next(self.net.model.parameters()).device
        self.title, self.rgb = title, to_rgb(pixels)
        self.input = self.images.normalise(pixels.to(device)[None])[0]
        self.live = occlusion.LiveOcclusion(self.net.model, self.input)
        self.clean = self.live.clean_logits.float().softmax(0)
        self.target = int(self.clean.argmax())
        # from the middle of the image on, where photographs have their subject
        self.top = self.left = (self.net.size - self.size) // 2
        self.choose_layer(self.layer)

    # --- What is said of it ---

    @property
    def activity(self) -> tuple[float, float]:
        """The map's total activity without and with the square."""
        return float(self.map.sum()), float(self.covered_map.sum())

    @property
    def nearest(self) -> tuple[int, int]:
        """Row and column of the sweep's position that is nearest to the square's."""
        pairs = (self.swept.tops, self.top), (self.swept.lefts, self.left)
        return tuple(int((starts - own).abs().argmin()) for starts, own in pairs)

    def classes_shown(self, count: int = 5) -> list[int]:
        """The most probable classes without the square, and the most probable one with it."""
        best = self.clean.topk(min(count, len(self.clean))).indices.tolist()
        now = int(self.covered.argmax())
        return best if now in best else [*best[: count - 1], now]

    @torch.no_grad()
    def latency(self, count: int = 20, seed: int = 0) -> dict[str, float]:
        """The square at `count` random positions, live and by the net's own forward pass on the
        covered image, in turn: the median seconds of either, and the largest difference of a
        probability.
        """
        generator, size = torch.Generator().manual_seed(seed), self.size
        corners = torch.randint(self.net.size - size + 1, (count + 2, 2), generator=generator)
        spent, difference = [], 0.0
        for top, left in corners.tolist():
            started = time.perf_counter()
            live = self.live.at(top, left, size)[0].softmax(0)
            between = time.perf_counter()
            image = self.input.clone()
            image[:, top : top + size, left : left + size] = 0
            full = self.net.model(image[None])[0].cpu().softmax(0)
            spent.append((between - started, time.perf_counter() - between))
            difference = max(difference, float((live - full).abs().max()))
        # the first two warm up
        live, full = (statistics.median(seconds) for seconds in zip(*spent[2:], strict=True))
        return {"live": live, "full pass": full, "difference": difference}
