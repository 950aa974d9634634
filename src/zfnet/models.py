"""The nets: ZFNet (paper, Fig. 3), Krizhevsky's AlexNet, and the pretrained nets of torchvision and pytorchcv.

Every net has `.features` (a flat nn.Sequential), `.avgpool` and `.classifier`, as torchvision's have. The paper prints no paddings; they follow
from its map sizes (110/55/26/13/13/13/13/6 at 224 px): conv1 pad 1, conv2 pad 0, conv3-5 pad 1, pools 3x3/2 with `ceil_mode=True` and no padding.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from . import provenance
from .profiles import Profile

# per convolution: kernel, stride, padding; and after which of the five a pool follows
_ZFNET = ((7, 2, 1), (5, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1))
_ALEXNET = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
_POOLED = (1, 2, 5)


class _Net(nn.Module):
    """Five convolutions, three overlapping pools and a fully connected head; the two nets of the paper differ in `geometry`."""

    def __init__(self, geometry, num_classes, input_size, maps, fc, lrn, dropout, init, conv1_scale):
        super().__init__()
        if len(maps) != 5:
            raise ValueError(f"maps = {tuple(maps)}: expected the numbers of maps of five layers")
        if min(maps) < 0 or not maps[0]:
            raise ValueError(f"maps = {tuple(maps)}: 0 leaves a layer out, but the first one must stay and none can be negative")
        if lrn not in (None, "after", "before"):
            raise ValueError(f"lrn = {lrn!r}: choose None, 'after' (the pool, as the paper does) or 'before'")
        if init not in ("kaiming", "paper"):
            raise ValueError(f"init = {init!r}: choose 'kaiming' or 'paper'")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for n, (width, (kernel, stride, padding)) in enumerate(zip(maps, geometry, strict=True), start=1):
            if not width:
                continue
            layers[f"conv{n}"] = nn.Conv2d(channels, width, kernel, stride, padding)
            layers[f"relu{n}"] = nn.ReLU()
            tail = {f"pool{n}": nn.MaxPool2d(3, 2, ceil_mode=True)} if n in _POOLED else {}
            if lrn and n <= 2:
                norm = {f"norm{n}": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)}
                tail = {**tail, **norm} if lrn == "after" else {**norm, **tail}
            layers.update(tail)
            channels = width
        self.features = nn.Sequential(layers)
        try:
            with torch.no_grad():
                side = self.features(torch.zeros(1, 3, input_size, input_size)).shape[-1]
        except RuntimeError:
            raise ValueError(f"input_size = {input_size}: too small for this net's five layers; use at least 64") from None
        # at `input_size` this is the identity; other sizes are brought to the map size that the head expects
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        head: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = channels * side * side
        for n, width in enumerate(fc, start=6):
            head[f"fc{n}"] = nn.Linear(inputs, width)
            head[f"relu{n}"] = nn.ReLU()
            head[f"drop{n}"] = nn.Dropout(dropout)
            inputs = width
        head["fc8"] = nn.Linear(inputs, num_classes)
        self.classifier = nn.Sequential(head)
        self.initialise(init, conv1_scale)

    def initialise(self, init: str, conv1_scale: float) -> None:
        """Weights ~ N(0, 0.01^2), biases 0 ("paper", section 3), or Kaiming's normal initialisation; conv1 times `conv1_scale`."""
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
    """The paper's net (Fig. 3): conv1 7x7/2, conv2 5x5/2, dense connections; 62,357,608 parameters at 1000 classes.

    `maps=(96, 256, 512, 1024, 512)` is the second version. `lrn` puts local response normalisation after the pools of layers 1 and 2
    (the paper), before them (pytorchcv) or nowhere. `input_size` sizes the head. A width of 0 leaves a layer out, `fc=()` both hidden layers (Table 3). Raises
    ValueError for an unknown choice.
    """

    def __init__(self, num_classes: int = 1000, *, input_size: int = 224, maps: Sequence[int] = (96, 256, 384, 384, 256),
                 fc: Sequence[int] = (4096, 4096), lrn: str | None = None, dropout: float = 0.5, init: str = "kaiming",
                 conv1_scale: float = 1.0):  # fmt: skip
        super().__init__(_ZFNET, num_classes, input_size, maps, fc, lrn, dropout, init, conv1_scale)


class AlexNet(_Net):
    """Krizhevsky's net (2012) as the paper replicates it: conv1 11x11/4, conv2 5x5/1, not split over two GPUs. Same arguments as ZFNet."""

    def __init__(self, num_classes: int = 1000, *, input_size: int = 224, maps: Sequence[int] = (96, 256, 384, 384, 256),
                 fc: Sequence[int] = (4096, 4096), lrn: str | None = None, dropout: float = 0.5, init: str = "kaiming",
                 conv1_scale: float = 1.0):  # fmt: skip
        super().__init__(_ALEXNET, num_classes, input_size, maps, fc, lrn, dropout, init, conv1_scale)


def paper_layers(features: nn.Sequential) -> dict[int, str]:
    """The rectified maps that stand for the paper's layers: {1: "relu1", …, 5: "relu5"}.

    With up to eight ReLUs each is a layer; deeper nets (VGG) give the last ReLU of each block, that is, before each pool and at the end; those without
    pools every ReLU.
    """
    relus = [name for name, layer in features.named_children() if isinstance(layer, nn.ReLU)]
    if len(relus) > 8:
        blocks, last = [], None
        for name, layer in features.named_children():
            if isinstance(layer, nn.ReLU):
                last = name
            elif isinstance(layer, nn.MaxPool2d) and last is not None:
                blocks, last = [*blocks, last], None
        if blocks:
            relus = blocks if last is None else [*blocks, last]
    return dict(enumerate(relus, start=1))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode and give every module its own mode back, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def from_pytorchcv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a pytorchcv `zfnet`/`zfnetb` state dict to ours: five convolutions, then three linear layers, in the same order."""
    names = [*(f"features.conv{n}" for n in range(1, 6)), *(f"classifier.fc{n}" for n in range(6, 9))]
    weights = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    if len(weights) != len(names):
        raise ValueError(f"not a pytorchcv zfnet: {len(weights)} weights instead of {len(names)}: {', '.join(weights)}")
    if missing := [f"{old}.bias" for old in weights if f"{old}.bias" not in state]:
        raise ValueError(f"not a pytorchcv zfnet: missing {', '.join(missing)}")
    return {f"{new}.{kind}": state[f"{old}.{kind}"] for new, old in zip(names, weights, strict=True) for kind in ("weight", "bias")}


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a .pth/.pt file with `weights_only=True`, so that no code in it runs.

    Raises FileNotFoundError, or ValueError for a file that is not a state dict or holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: train first (`make train PROFILE=…`), or set `weights:` in the profile")
    try:
        state = provenance.load_tensors(path)[0] if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:
        if "checksum" in str(error):
            raise
        reason = str(error).partition(" file (")[2].partition("): delete")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as weights ({reason}): expected a state dict, safetensors or .pth") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in state.items()):
        raise ValueError(f"{path} holds no state dict of tensors")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} is not a plain tensor with all its values: save the state dict of a net")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} has values that are not finite; the training diverged or the file is damaged")
    return state


def put_weights(model: nn.Module, state: dict[str, torch.Tensor], origin: str) -> nn.Module:
    """Load a state dict whole; ValueError names what is missing, extra or misshapen."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [f"{name} holds {state[name].dtype}, expected {own[name].dtype}"
                 for name in own if name in state and state[name].is_floating_point() != own[name].is_floating_point()]  # fmt: skip
    problems += [f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
                 for name in own if name in state and state[name].shape != own[name].shape]  # fmt: skip
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"{origin} does not fit this net: {'; '.join(problems[:4])}{more}")
    model.load_state_dict(state)
    return model


def build_model(profile: Profile, num_classes: int) -> nn.Module:
    """The profile's net with random weights drawn from the profile's seed; the caller's random state is left alone."""
    config = profile.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(profile.seed)
        if config.name in ("zfnet", "alexnet"):
            net = ZFNet if config.name == "zfnet" else AlexNet
            return net(num_classes, input_size=profile.data.size, maps=config.maps, fc=config.fc, lrn=config.lrn,
                       dropout=config.dropout, init=config.init, conv1_scale=config.conv1_scale)  # fmt: skip
        if config.name in ("zfnet_imagenet", "zfnetb_imagenet"):
            maps = (96, 256, 512, 1024, 512) if config.name.startswith("zfnetb") else (96, 256, 384, 384, 256)
            return ZFNet(1000, maps=maps, lrn="before")
        import torchvision

        return getattr(torchvision.models, config.name.removesuffix("_imagenet"))(weights=None)


def load_model(profile: Profile, num_classes: int | None = None) -> nn.Module:
    """The profile's net, with its weights, in eval mode on the CPU.

    A profile that trains reads `runs/<profile>/weights.safetensors` (FileNotFoundError, with the cure, before training). A pretrained profile
    reads the file named by `model.weights`, or downloads: torchvision's enum by name, or pytorchcv's weights for the zfnet_imagenet nets.
    """
    config = profile.model
    path = profile.given_weights
    if path is None and profile.training is None:
        return _downloaded(config).eval()
    state = read_weights(path or profile.weights_file)
    if config.name.startswith("zfnet") and "features.conv1.weight" not in state:
        state = from_pytorchcv(state)
    if num_classes is None:
        biases = [name for name in state if name.startswith("classifier.") and name.endswith(".bias")]
        if not biases:
            raise ValueError(f"{path or profile.weights_file} has no classifier; expected the weights of a whole {config.name}")
        num_classes = state[max(biases)].numel()
    return put_weights(build_model(profile, num_classes), state, str(path or profile.weights_file)).eval()


def class_names(profile: Profile, classes: Sequence[str]) -> tuple[str, ...]:
    """What the net's outputs are called: the data's classes where it was trained on them, those in the header of a weights file, else ImageNet's."""
    path = profile.given_weights
    if path and path.suffix == ".safetensors" and (names := provenance.read_meta(path).get("classes")):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: its header says {str(names)[:100]!r} of its classes; expected their names: fetch it again")
        return tuple(names)
    if profile.training is not None or len(classes) == 1000:
        return tuple(classes)
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def _downloaded(config) -> nn.Module:
    """A pretrained net from its publisher; OSError without a network becomes a FileNotFoundError with the cure."""
    try:
        if config.name.startswith("zfnet"):
            from pytorchcv.model_provider import get_model

            kind = config.name.removesuffix("_imagenet")
            maps = (96, 256, 512, 1024, 512) if kind == "zfnetb" else (96, 256, 384, 384, 256)
            state = from_pytorchcv(get_model(kind, pretrained=True).state_dict())
            return put_weights(ZFNet(1000, maps=maps, lrn="before"), state, f"pytorchcv's {kind}")
        import torchvision

        return torchvision.models.get_model(config.name.removesuffix("_imagenet"), weights=config.weights or "IMAGENET1K_V1")
    except ImportError:
        raise ImportError("the zfnet_imagenet weights come from the package pytorchcv: pip install pytorchcv") from None
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {config.name} could not be downloaded ({error}): connect to the network, or set `weights:` in the profile to a local file"
        ) from None


def save_weights(path: Path | str, model: nn.Module, meta: dict) -> None:
    """Write the model's state dict and `meta` to one safetensors file, atomically."""
    provenance.save_tensors(path, model.state_dict(), meta)
