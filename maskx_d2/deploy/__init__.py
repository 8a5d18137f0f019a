"""A trained model without its weight transfer function, and files for other runtimes."""

from .baking import Baked, bake
from .exporting import Exported, export

__all__ = ["Baked", "Exported", "bake", "export"]
