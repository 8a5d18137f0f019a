"""A classifier that learns labels of whole images, and where in the image it sees each."""

from .config import add_image_labels_config
from .meta_arch import PeakResponseClassifier, Peaks
from .peak_backprop import peak_backprop, response_map
from .peaks import find_peaks, peak_stimulation

__all__ = [
    "PeakResponseClassifier",
    "Peaks",
    "add_image_labels_config",
    "find_peaks",
    "peak_backprop",
    "peak_stimulation",
    "response_map",
]
