"""Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", reproduced in PyTorch.

Importing this package is light: no network, no plotting (that is `zfnet.plots`).
"""

from zfnet.data.images import Data, Images
from zfnet.data.load import load_data
from zfnet.experiments import load_profile
from zfnet.graph.forward import evaluating
from zfnet.graph.trace import layers, paper_layers
from zfnet.graph.windows import ReceptiveField, receptive_field
from zfnet.methods.deconv import Deconvnet, Patches
from zfnet.methods.localisation import class_share, occlusion_localisation, projection_localisation
from zfnet.methods.occlusion import Occlusion, occlude, occlude_all
from zfnet.methods.top_activations import (
    TopActivations,
    TopUnits,
    load_scan,
    scan,
    strongest_channel,
    top_units,
)
from zfnet.models.build import build_model, class_names, load_model
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store.profiles import Profile, profile_names
from zfnet.training.evaluation import class_accuracy, evaluate, examples
from zfnet.training.run import read_history, train, trained

__all__ = [
    "AlexNet",
    "Data",
    "Deconvnet",
    "Images",
    "Occlusion",
    "Patches",
    "Profile",
    "ReceptiveField",
    "TopActivations",
    "TopUnits",
    "ZFNet",
    "build_model",
    "class_accuracy",
    "class_names",
    "class_share",
    "evaluate",
    "evaluating",
    "examples",
    "layers",
    "load_data",
    "load_model",
    "load_profile",
    "load_scan",
    "occlude",
    "occlude_all",
    "occlusion_localisation",
    "paper_layers",
    "profile_names",
    "projection_localisation",
    "read_history",
    "receptive_field",
    "scan",
    "strongest_channel",
    "top_units",
    "train",
    "trained",
]
__version__ = "0.1.0"
