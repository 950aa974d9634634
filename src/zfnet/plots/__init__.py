"""What every figure is built from: tiles, panels, grids, the one contrast rule, saving.

`plots.top9_figure(…)`, `plots.save_figure(figure, profile, "02_layer1_top9")`. The figures of an
experiment stand beside its computation, in `experiments`.
"""

from zfnet.plots.contrast import PERCENTILE, contrast_scale, drawn, to_grey_centred, to_rgb
from zfnet.plots.explained import (
    centres,
    covered,
    explained_figure,
    hidden_most,
    label_map,
    occluded_figure,
)
from zfnet.plots.panels import (
    CONTRAST,
    captioned,
    chance_label,
    chart,
    crop_field,
    field_tile,
    mosaic,
    outline,
    show,
)
from zfnet.plots.saving import fingerprint, save_figure, save_table, write_figure
from zfnet.plots.text import literal
from zfnet.plots.top9 import random_maps, spread, top9_figure, top9_tiles

__all__ = [
    "CONTRAST",
    "PERCENTILE",
    "captioned",
    "centres",
    "chance_label",
    "chart",
    "contrast_scale",
    "covered",
    "crop_field",
    "drawn",
    "explained_figure",
    "field_tile",
    "fingerprint",
    "hidden_most",
    "label_map",
    "literal",
    "mosaic",
    "occluded_figure",
    "outline",
    "random_maps",
    "save_figure",
    "save_table",
    "show",
    "spread",
    "to_grey_centred",
    "to_rgb",
    "top9_figure",
    "top9_tiles",
    "write_figure",
]
