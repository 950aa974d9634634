"""What a square that hides a part of the image does to the net (section 4.2 and Figure 7)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="section 4.2 and Figure 7", notebooks=("08_occlusion",))
