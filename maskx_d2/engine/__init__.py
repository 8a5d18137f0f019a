"""Training and evaluation."""

from .launch import main, run
from .trainer import MaskXTrainer
from .yaml_main import setup

__all__ = ["MaskXTrainer", "main", "run", "setup"]
