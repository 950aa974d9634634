"""The maps themselves, image by image (section 2 and Figure 3)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="section 2 and Figure 3", notebooks=("10_feature_maps",))
