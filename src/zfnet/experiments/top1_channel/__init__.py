"""The strongest channel of one image (section 2.1)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="section 2.1", notebooks=("07_top1_channel",))
