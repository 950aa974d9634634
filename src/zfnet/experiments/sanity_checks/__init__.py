"""Do the pictures depend on what was learned? (section 2.1, and beyond the paper)"""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(paper="section 2.1, and beyond the paper", notebooks=("17_sanity_checks",))
