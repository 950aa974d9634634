"""What larger images give (beyond the paper, about its data)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="Beyond the paper, about its data", notebooks=("18_resolution",))
