"""What every figure is built from: tiles, panels, grids, the one contrast rule, saving.

`plots.top9_figure(…)`, `plots.save_figure(figure, profile, "02_layer1_top9")`. The figures of an
experiment stand beside its computation, in `experiments`.
"""

from zfnet.plots.contrast import PERCENTILE, contrast_scale, to_grey_centred, to_rgb
from zfnet.plots.explained import explained_figure, occluded_figure
from zfnet.plots.panels import captioned, crop_field, mosaic
from zfnet.plots.saving import fingerprint, save_figure, save_table, write_figure
from zfnet.plots.top9 import random_maps, spread, top9_figure, top9_tiles

__all__ = [
    "PERCENTILE",
    "captioned",
    "contrast_scale",
    "crop_field",
    "explained_figure",
    "fingerprint",
    "mosaic",
    "occluded_figure",
    "random_maps",
    "save_figure",
    "save_table",
    "spread",
    "to_grey_centred",
    "to_rgb",
    "top9_figure",
    "top9_tiles",
    "write_figure",
]
