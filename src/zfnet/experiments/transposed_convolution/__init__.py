"""What a transposed convolution, an unpooling and a deconvnet do, from zero (section 2.1)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="section 2.1", notebooks=("00_transposed_convolution",))
