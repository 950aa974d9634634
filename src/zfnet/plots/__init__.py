"""Every panel and grid of the figures: `plots.top9_figure(…)`, `plots.save_figure(figure, profile, "02_layer1_top9")`."""

from .ablation import ablation_figure
from .correspondence import correspondence_figure
from .evolution import curves_figure, evolution_figure, evolution_tiles
from .explain import explained_figure, occluded_figure
from .feature_maps import feature_maps_figure
from .filters import filters_figure, two_layers_figure, unit_tiles
from .invariance import invariance_figure
from .occlusion import occlusion_figure
from .panels import PERCENTILE, captioned, contrast_scale, crop_field, mosaic, to_grey_centred, to_rgb
from .probes import probes_figure
from .resolution import beside_figure, reduced_figure
from .sanity import sanity_figure
from .saving import fingerprint, save_figure, save_table, write_figure
from .top9 import channels_figure, one_image_figure, random_maps, spread, top9_figure, top9_tiles
from .training import confusion_figure, predictions_figure, training_figure
from .transfer import transfer_figure
from .transposed import draw_array, matrix_figure, overlap_figure, walk_figure

__all__ = [
    "PERCENTILE", "ablation_figure", "beside_figure", "captioned", "channels_figure", "confusion_figure", "contrast_scale", "correspondence_figure",
    "crop_field", "curves_figure", "draw_array", "evolution_figure", "evolution_tiles", "explained_figure", "feature_maps_figure", "filters_figure",
    "fingerprint", "invariance_figure", "matrix_figure", "mosaic", "occluded_figure", "occlusion_figure", "one_image_figure", "overlap_figure",
    "predictions_figure", "probes_figure", "random_maps", "reduced_figure", "sanity_figure", "save_figure", "save_table", "spread", "to_grey_centred",
    "to_rgb", "top9_figure", "top9_tiles", "training_figure", "transfer_figure", "two_layers_figure", "unit_tiles", "walk_figure", "write_figure",
]  # fmt: skip
