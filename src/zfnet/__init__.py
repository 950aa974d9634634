"""Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", reproduced in PyTorch.

Importing this package is light: no network, no plotting (that is `zfnet.plots`).
"""

from .activations import TopActivations, TopUnits, load_scan, scan, strongest_channel, top_units
from .data import Data, Images, load_data
from .deconv import Deconvnet, Patches
from .localisation import class_share, occlusion_localisation, projection_localisation
from .models import AlexNet, ZFNet, build_model, class_names, evaluating, load_model, paper_layers
from .occlusion import Occlusion, occlude, occlude_all
from .profiles import Profile, load_profile, profile_names
from .training import class_accuracy, evaluate, examples, read_history, train, trained
from .windows import ReceptiveField, receptive_field

__all__ = [
    "AlexNet", "Data", "Deconvnet", "Images", "Occlusion", "Patches", "Profile", "ReceptiveField", "TopActivations", "TopUnits", "ZFNet",
    "build_model", "class_accuracy", "class_names", "class_share", "evaluate", "evaluating", "examples", "load_data", "load_model", "load_profile", "load_scan",
    "occlude", "occlude_all", "occlusion_localisation", "paper_layers",
    "profile_names", "projection_localisation", "read_history", "receptive_field", "scan", "strongest_channel", "top_units", "train", "trained",
]  # fmt: skip
__version__ = "0.1.0"
