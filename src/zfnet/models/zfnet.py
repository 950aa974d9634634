"""ZFNet (paper, Fig. 3) and Krizhevsky's AlexNet.

The paper prints no paddings; they follow from its map sizes (110/55/26/13/13/13/13/6 at 224 px):
conv1 pad 1, conv2 pad 0, conv3-5 pad 1, pools 3x3/2 with `ceil_mode=True` and no padding.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from zfnet.store.errors import UserError, require


class _Net(nn.Module):
    """Five convolutions, three overlapping pools and a fully connected head; the two nets of the
    paper differ in `geometry`: kernel, stride and padding of each convolution.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        input_size: int = 224,
        maps: Sequence[int] = (96, 256, 384, 384, 256),
        fc: Sequence[int] = (4096, 4096),
        lrn: str | None = None,
        dropout: float = 0.5,
        init: str = "kaiming",
        conv1_scale: float = 1.0,
    ):
        super().__init__()
        shown = f"maps = {tuple(maps)}"
        require(len(maps) == 5, f"{shown}: expected the numbers of maps of five layers")
        require(
            min(maps) >= 0 and maps[0],
            f"{shown}: 0 leaves a layer out, but the first one must stay and none can be negative",
        )
        require(
            lrn in (None, "after", "before"),
            f"lrn = {lrn!r}: choose None, 'after' (the pool, as the paper does) or 'before'",
        )
        require(init in ("kaiming", "paper"), f"init = {init!r}: choose 'kaiming' or 'paper'")
        # features: a convolution, its ReLU, and perhaps a pool with its normalisation
        layers, channels = OrderedDict(), 3
        kept = [each for each in zip(range(1, 6), maps, self.geometry, strict=True) if each[1]]
        for n, width, window in kept:
            layers |= {f"conv{n}": nn.Conv2d(channels, width, *window), f"relu{n}": nn.ReLU()}
            tail = {f"pool{n}": nn.MaxPool2d(3, 2, ceil_mode=True)} if n in (1, 2, 5) else {}
            if lrn and n <= 2:
                norm = {f"norm{n}": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)}
                tail = {**tail, **norm} if lrn == "after" else {**norm, **tail}
            layers |= tail
            channels = width
        self.features = nn.Sequential(layers)
        try:
            with torch.no_grad():
                side = self.features(torch.zeros(1, 3, input_size, input_size)).shape[-1]
        except RuntimeError:
            raise UserError(
                f"input_size = {input_size}: too small for this net's five layers; use at least 64"
            ) from None
        # at `input_size` this is the identity; other sizes are brought to the map size that the
        # head expects
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        head, inputs = OrderedDict(), channels * side * side
        for n, width in enumerate(fc, start=6):
            head |= {f"fc{n}": nn.Linear(inputs, width), f"relu{n}": nn.ReLU()}
            head[f"drop{n}"], inputs = nn.Dropout(dropout), width
        self.classifier = nn.Sequential(head | {"fc8": nn.Linear(inputs, num_classes)})
        # weights ~ N(0, 0.01^2) ("paper", section 3), or Kaiming's normal initialisation; biases 0
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if init == "paper":
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.features.conv1.weight.mul_(conv1_scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to logits (N, num_classes): no softmax, which belongs to the loss."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


class ZFNet(_Net):
    """The paper's net (Fig. 3): conv1 7x7/2, conv2 5x5/2, dense connections; 62,357,608 parameters
    at 1000 classes.

    `maps=(96, 256, 512, 1024, 512)` is the second version. `lrn` puts local response normalisation
    after the pools of layers 1 and 2 (the paper), before them (pytorchcv) or nowhere. `input_size`
    sizes the head. A width of 0 leaves a layer out, `fc=()` both hidden layers (Table 3). Raises
    ValueError for an unknown choice.
    """

    geometry = ((7, 2, 1), (5, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1))


class AlexNet(_Net):
    """Krizhevsky's net (2012) as the paper replicates it: conv1 11x11/4, conv2 5x5/1, not split
    over two GPUs. Same arguments as ZFNet.
    """

    geometry = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
