"""Every panel and grid of the figures: `plots.top9_figure(…)`, `plots.save_figure(figure, profile, "02_layer1_top9")`."""

from .feature_maps import feature_maps_figure
from .filters import filters_figure, two_layers_figure, unit_tiles
from .occlusion import occlusion_figure
from .panels import PERCENTILE, captioned, contrast_scale, crop_field, mosaic, to_grey_centred, to_rgb
from .saving import fingerprint, save_figure, save_table
from .top9 import channels_figure, one_image_figure, random_maps, spread, top9_figure, top9_tiles
from .training import confusion_figure, predictions_figure, training_figure

__all__ = [
    "PERCENTILE", "captioned", "channels_figure", "confusion_figure", "contrast_scale", "crop_field", "feature_maps_figure", "filters_figure", "fingerprint",
    "mosaic", "occlusion_figure", "one_image_figure", "predictions_figure", "random_maps", "save_figure", "save_table", "spread", "to_grey_centred", "to_rgb",
    "top9_figure", "top9_tiles", "training_figure", "two_layers_figure", "unit_tiles",
]  # fmt: skip
