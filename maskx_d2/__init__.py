"""
maskx_d2: partial mask supervision for detectron2.

You have boxes for all categories and masks for some; one detectron2 model gives masks for all.
"""

from . import _environment  # noqa: F401  first: says in one sentence what is missing
from .config import add_maskx_config
from .data.presets import register_presets
from .lazy import apply_box_supervision, apply_maskx
from .open_vocabulary import apply_open_vocabulary
from .splits import ClassSplit, load_split

__all__ = [
    "ClassSplit",
    "__version__",
    "add_maskx_config",
    "apply_box_supervision",
    "apply_maskx",
    "apply_open_vocabulary",
    "load_split",
]

__version__ = "0.1.0"

register_presets()
