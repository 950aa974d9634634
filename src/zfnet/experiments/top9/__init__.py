"""The nine strongest activations of feature maps, layer by layer (section 4 and Figure 2)."""

from zfnet.experiments import Experiment

EXPERIMENT = Experiment(
    paper="section 4 and Figure 2",
    notebooks=tuple(f"0{layer + 1}_layer{layer}_top9" for layer in range(1, 6)),
)
