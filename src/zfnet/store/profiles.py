"""Profiles: one YAML file says which data, which net, which training and which notebooks. Every
path of the project comes from here.

    profile = load_profile("demo")          # profiles/demo.yaml
    profile = load_profile("my/own.yaml")   # a file of your own

The root of the project is the folder that holds `profiles/`: this checkout, or the one named by the
environment variable ZFNET_ROOT. ZFNET_FIGURES names another folder than its Figures/ for what
notebooks draw, as `make test` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import yaml

from zfnet.store.errors import UserError, WrongType


def _root() -> Path:
    if "ZFNET_ROOT" in os.environ:
        return Path(os.environ["ZFNET_ROOT"]).resolve()
    here = Path(__file__).resolve().parents[3]
    candidates = [here, Path.cwd(), *Path.cwd().parents]
    return next((path for path in candidates if (path / "profiles").is_dir()), here)


ROOT = _root()
LARGEST = 10**9  # no whole number in a profile is larger
NOTEBOOKS = (
    "00_transposed_convolution",
    "01_train",
    "02_layer1_top9",
    "03_layer2_top9",
    "04_layer3_top9",
    "05_layer4_top9",
    "06_layer5_top9",
    "07_top1_channel",
    "08_occlusion",
    "09_filters",
    "10_feature_maps",
    "11_evolution",
    "12_invariance",
    "13_correspondence",
    "14_ablation",
    "15_probes",
    "16_transfer",
    "17_sanity_checks",
    "18_resolution",
)


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they become network input: (pixel - mean) / std * gain on crops of
    `size` out of `resize` x `resize`.
    """

    source: typing.Literal["shapes", "photos", "cifar10", "caltech101", "folder"] = "shapes"
    # folder of images or of torchvision's download; relative to the project
    root: str | None = None
    resize: int = 128  # stored side in pixels
    size: int = 112  # side of the network's input
    # weights: as the net was trained
    normalise: typing.Literal["channel", "pixel", "imagenet", "weights"] = "channel"
    gain: float = 1.0
    count: int = 5000  # built-in shapes, or crops of photographs: how many images
    validation: float = 0.1  # share of the training images held out for model selection
    test: float = 0.2  # share held out for testing where the source has no test split
    train_per_class: int | None = None
    test_per_class: int | None = None
    # GiB of decoded images to hold at most; a folder beyond it is decoded from its files whenever
    # it is needed
    memory: float = 2.0


@dataclass(frozen=True)
class ModelConfig:
    """Which net. `conv1_scale` multiplies the first layer's initial weights; `weights` names a file
    or a torchvision enum.
    """

    name: typing.Literal[
        "zfnet",
        "alexnet",
        "zfnet_imagenet",
        "zfnetb_imagenet",
        "vgg16",
        "vgg19",
        "alexnet_imagenet",
    ] = "zfnet"
    maps: tuple[int, ...] = (96, 256, 384, 384, 256)
    fc: tuple[int, ...] = (4096, 4096)
    lrn: typing.Literal["after", "before"] | None = None
    dropout: float = 0.5
    init: typing.Literal["kaiming", "paper"] = "kaiming"
    conv1_scale: float = 1.0
    weights: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe (paper section 3). `rms` bounds the root mean square of every convolution filter;
    None leaves them free.
    """

    epochs: int = 70
    batch_size: int = 128
    # adamw is not the paper's: it leaves the plateau at the start sooner
    optimiser: typing.Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: typing.Literal["constant", "plateau", "onecycle"] = "plateau"
    rms: float | None = 0.1
    flip: bool = True
    # random crops have this side at least and are resized to `data: size:`; None: they have that
    # side
    smallest_crop: int | None = None
    ten_crop: bool = True
    # in 64ths of the run: the columns of Fig. 4, whose epochs are 1, 2, 5, 10, 20, 30, 40 and 64
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class OcclusionConfig:
    """The sliding square of Fig. 7, in pixels of the network's input."""

    size: int = 28
    stride: int = 8


@dataclass(frozen=True)
class EvolutionConfig:
    """How much Fig. 4 looks at: `images` training images searched at each snapshot (None: all),
    `probes` validation images for the responses, and `maps` feature maps of each layer whose
    projections are compared.
    """

    images: int | None = 1000
    probes: int = 100
    maps: int = 32


@dataclass(frozen=True)
class InvarianceConfig:
    """Fig. 5: how many test images are transformed."""

    images: int = 100


@dataclass(frozen=True)
class CorrespondenceConfig:
    """The masks of Table 1: squares of `size` input pixels on the keypoints named `parts`, or the
    boxes of a YAML file (`parts.py` describes it).
    """

    size: int = 18
    parts: tuple[str, ...] = ("right_eye", "left_eye", "nose", "mouth")
    boxes: str | None = None  # relative to the project


@dataclass(frozen=True)
class ProbesConfig:
    """The classifiers of Table 7: training images per class, how often each is drawn, and the most
    features that a layer may give.
    """

    per_class: tuple[int, ...] = (2, 5, 10, 30)
    draws: int = 5
    features: int = 4096


@dataclass(frozen=True)
class SmallNetsConfig:
    """What experiments that train dozens of nets have in common; `maps` and `fc` are factors on the
    paper's widths.
    """

    size: int = 56  # side of the images in pixels; both nets need 48
    maps: float = 0.25
    fc: float = 0.0625
    dropout: float = 0.2  # 0.5 keeps nets as narrow as these on the plateau of chance
    batch_size: int = 20
    lr: float = 0.007
    weight_decay: float = 0.0005
    rms: float | None = 0.1


@dataclass(frozen=True)
class AblationConfig(SmallNetsConfig):
    """The nets of Table 3, small enough to train three dozen of them."""

    images: int = 1000  # training images, all classes together
    seeds: int = 3  # nets per row
    dropout: float = 0.1
    epochs: int = 18


@dataclass(frozen=True)
class TransferConfig(SmallNetsConfig):
    """Tables 4 and 5: the source net, and the nets trained from scratch."""

    # the profile whose net is transferred; None: one trained on half of the classes
    source: str | None = None
    per_class: tuple[int, ...] = (1, 3, 10, 30, 100)  # training images of each class
    draws: int = 3  # random sets of training images for each number
    source_epochs: int = 15
    epochs: int = 25
    epoch_images: int = 400  # what an epoch from scratch shows, however few images there are


@dataclass(frozen=True)
class FiltersConfig:
    """The nets of Fig. 6: small, and trained briefly and alike, on at most `images` images times
    `gain`, at the rate `lr`, annealed, without dropout.

    `weight_decay` is strong: without it the random start is most of what filters and projections
    show after so few steps. `rms` bounds the filters of the two nets that have a bound. It is below
    the paper's 0.1, which no filter would reach in so short a training.
    """

    epochs: int = 12
    images: int = 2000
    maps: tuple[int, ...] = (48, 64, 0, 0, 64)  # 0 leaves a layer out
    fc: tuple[int, ...] = (128,)
    gain: float = 2.0
    batch_size: int = 32
    conv1_scale: float = 0.06
    lr: float = 0.015
    weight_decay: float = 0.03
    rms: float = 0.05


@dataclass(frozen=True)
class Profile:
    name: str
    title: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig | None = None
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    invariance: InvarianceConfig = field(default_factory=InvarianceConfig)
    correspondence: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    scan_split: typing.Literal["train", "val", "test"] = "val"  # the images that top-9 searches
    notebooks: tuple[str, ...] = NOTEBOOKS

    @property
    def runs(self) -> Path:
        """Where artefacts go; never committed."""
        return ROOT / "runs" / self.name

    @property
    def figures(self) -> Path:
        """Where figures and tables go."""
        return Path(os.environ.get("ZFNET_FIGURES") or ROOT / "Figures").resolve() / self.name

    @property
    def given_weights(self) -> Path | None:
        """The file that `model: weights:` names; None where it names a publisher's weights, or
        nothing.
        """
        name = self.model.weights
        return ROOT / name if name and Path(name).suffix else None

    @property
    def weights_file(self) -> Path:
        return self.runs / "weights.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        return self.runs / "checkpoint.pt"

    def snapshot_file(self, part: int) -> Path:
        """The features as they were after `part`/64 of the training."""
        return self.runs / "snapshots" / f"{part:02d}.safetensors"

    @property
    def history_file(self) -> Path:
        return self.runs / "history.csv"

    @property
    def scan_file(self) -> Path:
        return self.runs / "scan.safetensors"

    @property
    def data_root(self) -> Path:
        return ROOT / (self.data.root or "data")

    @property
    def data_file(self) -> Path:
        return self.runs / "data.safetensors"


def profile_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


def load_profile(name: str | os.PathLike) -> Profile:
    """The profile of that name, or of that YAML file.

    Raises FileNotFoundError for an unknown name; ValueError or TypeError, naming the key, for a
    misspelt key or a bad value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = ROOT / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = profile_names()
        guess = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise FileNotFoundError(
            f"no profile {str(name)!r}.{hint} Profiles: {', '.join(known)}; or give the path of a"
            " .yaml file"
        )
    content = read_yaml(path, path.name)
    if not isinstance(content, dict):
        raise WrongType(f"{path.name}: expected keys and values, got {type(content).__name__}")
    return _validated(_read(Profile, {"name": path.stem, **content}, path.name), path.name)


class _Plain(yaml.SafeLoader):
    """YAML without aliases, a few lines of which can stand for gigabytes, and without a key that
    stands twice.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1} has an alias"
                f" (*{self.peek_event().anchor}): write the value out"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"{_shown(key)} stands there twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, where: str):
    """The content of a YAML file; no tag in it runs code. `where` names it in the ValueError for
    what is not plain YAML, or larger than 1 MB.
    """
    if path.stat().st_size > 10**6:
        raise UserError(
            f"{where} has {path.stat().st_size:,} bytes: expected a short file of keys and values"
        )
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except OSError:
        raise
    except RecursionError:
        raise UserError(f"{where} is not plain YAML: it is nested too deeply") from None
    except Exception as error:  # PyYAML lets ValueError, KeyError and AttributeError through, too
        raise UserError(
            f"{where} is not plain YAML: {' '.join(str(error).split())[:300]}"
        ) from None


def _shown(value) -> str:
    """What a message says of a value: its repr, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _read(kind, content, where: str):
    """Build dataclass `kind` from a mapping, naming any key that does not belong and any value of
    the wrong type.
    """
    if not isinstance(content, dict):
        raise WrongType(f"{where}: expected keys and values, got {_shown(content)}")
    hints = typing.get_type_hints(kind)
    for key in content:
        if key not in hints:
            guess = get_close_matches(_shown(key)[:50].strip("'"), hints, n=1)
            hint = f"; did you mean {guess[0]!r}?" if guess else "."
            raise UserError(
                f"{where}: unknown key {_shown(key)}{hint} Known keys: {', '.join(hints)}"
            )
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in content
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: missing {', '.join(missing)}")
    return kind(
        **{key: _convert(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    )


def _convert(hint, value, where: str):
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, where)
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint):
            raise UserError(
                f"{where} = {_shown(value)}: choose one of"
                f" {', '.join(map(str, typing.get_args(hint)))}"
            )
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise WrongType(f"{where} = {_shown(value)}: expected a list")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if type(value) is int and abs(value) > LARGEST:
        raise UserError(f"{where} = {_shown(value)}: at most {LARGEST:,}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise WrongType(
            f"{where} = {_shown(value)}: expected {hint.__name__}, got"
            f" {type(value).__name__}{_number(value)}"
        )
    return value


def _number(value) -> str:
    """The cure for 1e-3, which YAML takes for text."""
    with contextlib.suppress(TypeError, ValueError):
        return f"; write {float(value)}" if isinstance(value, str) and "e" in value.lower() else ""
    return ""


def _floats(config, where: str = "") -> Iterator[tuple[str, float]]:
    """All numbers with a fraction in a profile, and where they stand."""
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from _floats(value, f"{where}{name}.")
        elif isinstance(value, float):
            yield f"{where}{name}", value


def _validated(profile: Profile, where: str) -> Profile:
    data, model, training = profile.data, profile.model, profile.training
    if not profile.name.strip(". ") or set(profile.name) & set("/\\\0\n"):
        raise UserError(
            f"{where}: name = {_shown(profile.name)}: it names a folder in runs/ and in Figures/,"
            " so leave it out or choose a plain one"
        )
    positive = {
        "data.resize": data.resize,
        "data.size": data.size,
        "data.count": data.count,
        "data.gain": data.gain,
        "data.memory": data.memory,
        "occlusion.size": profile.occlusion.size,
        "occlusion.stride": profile.occlusion.stride,
        "data.train_per_class": data.train_per_class,
        "data.test_per_class": data.test_per_class,
        "correspondence.size": profile.correspondence.size,
        "probes.draws": profile.probes.draws,
        "probes.features": profile.probes.features,
        "model.conv1_scale": model.conv1_scale,
    }
    positive |= {
        f"evolution.{name}": value for name, value in dataclasses.asdict(profile.evolution).items()
    }
    positive |= {"invariance.images": profile.invariance.images}
    positive |= {f"probes.per_class[{i}]": n for i, n in enumerate(profile.probes.per_class)}
    positive |= {
        f"model.{name}[{i}]": n
        for name in ("maps", "fc")
        for i, n in enumerate(getattr(model, name))
        if n or name == "fc" or i == 0
    }
    positive |= {
        f"filters.{name}": getattr(profile.filters, name)
        for name in ("epochs", "images", "gain", "batch_size", "conv1_scale", "lr", "rms")
    }
    if training:
        positive |= {
            f"training.{name}": getattr(training, name)
            for name in ("epochs", "batch_size", "lr", "rms", "smallest_crop")
        }
    small, transfer = profile.ablation, profile.transfer
    positive |= {
        f"ablation.{name}": getattr(small, name)
        for name in ("images", "seeds", "maps", "fc", "epochs", "batch_size", "lr", "rms")
    }
    positive |= {
        f"transfer.{name}": getattr(transfer, name)
        for name in (
            "draws",
            "maps",
            "fc",
            "source_epochs",
            "epochs",
            "epoch_images",
            "batch_size",
            "lr",
            "rms",
        )
    }
    positive |= {f"transfer.per_class[{i}]": n for i, n in enumerate(transfer.per_class)}
    for name, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{where}: {name} = {value}: must be positive")
    for name, value in _floats(profile):
        if not math.isfinite(value) or value < 0:
            raise UserError(f"{where}: {name} = {value}: must be a number that is not negative")
    if training and training.momentum >= 1:
        raise UserError(
            f"{where}: training.momentum = {training.momentum}: must be at least 0 and less than 1"
        )
    if profile.seed < 0:
        raise UserError(f"{where}: seed = {profile.seed}: must not be negative")
    if data.resize > 10_000:
        raise UserError(f"{where}: data.resize = {data.resize}: at most 10000 pixels")
    if model.name in ("zfnet", "alexnet") and (len(model.maps) != 5 or min(model.maps) < 0):
        raise UserError(
            f"{where}: model.maps = {list(model.maps)}: expected the numbers of maps of five"
            " layers; 0 leaves a layer out"
        )
    if not 0 <= data.validation < 1:
        raise UserError(
            f"{where}: data.validation = {data.validation}: must be at least 0 (none: the last"
            " epoch is kept) and less than 1"
        )
    if not 0 < data.test < 1:
        raise UserError(f"{where}: data.test = {data.test}: must be between 0 and 1")
    if not data.validation and (
        profile.scan_split == "val" or (training and training.schedule == "plateau")
    ):
        raise UserError(
            f"{where}: data.validation = 0 leaves nothing for scan_split: val or for schedule:"
            " plateau; choose others"
        )
    maps = profile.filters.maps
    if len(maps) != 5 or min(maps) < 0 or not (maps[0] and maps[1]):
        raise UserError(
            f"{where}: filters.maps = {list(maps)}: expected the numbers of maps of five layers,"
            " above 0 in the first two; 0 leaves a layer out"
        )
    if data.size > data.resize:
        raise UserError(
            f"{where}: data.size = {data.size} is larger than data.resize = {data.resize}; crops"
            " must fit into the stored images"
        )
    if training and (training.smallest_crop or 0) > data.resize:
        raise UserError(
            f"{where}: training.smallest_crop = {training.smallest_crop} is larger than data.resize"
            f" = {data.resize}"
        )
    if training and (bad := [part for part in training.snapshots if not 1 <= part <= 64]):
        raise UserError(
            f"{where}: training.snapshots has {bad[0]}: choose from 1 to 64, the end of the run"
        )
    for name, config in (("model", model), ("ablation", small), ("transfer", transfer)):
        if not 0 <= config.dropout < 1:
            raise UserError(
                f"{where}: {name}.dropout = {config.dropout}: must be at least 0 and less than 1"
            )
    for name, config in (("ablation", small), ("transfer", transfer)):
        if config.size < 48:
            raise UserError(
                f"{where}: {name}.size = {config.size}: the nets' five layers need at least 48"
                " pixels"
            )
    if profile.occlusion.size > data.size:
        raise UserError(
            f"{where}: occlusion.size = {profile.occlusion.size} does not fit into data.size ="
            f" {data.size}"
        )
    if profile.correspondence.size > data.size:
        raise UserError(
            f"{where}: correspondence.size = {profile.correspondence.size} does not fit into"
            f" data.size = {data.size}"
        )
    for name, values in (
        ("correspondence.parts", profile.correspondence.parts),
        ("probes.per_class", profile.probes.per_class),
    ):
        if not values or len(set(values)) < len(values):
            raise UserError(f"{where}: {name} = {list(values)}: give at least one, each once")
    if unknown := [name for name in profile.notebooks if name not in NOTEBOOKS]:
        raise UserError(f"{where}: notebooks = {unknown}: choose from {', '.join(NOTEBOOKS)}")
    return profile
