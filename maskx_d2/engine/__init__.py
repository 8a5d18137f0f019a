"""Training, evaluation and the use of a trained model."""

from .inference import LoadedModel, load_model
from .launch import main, run
from .predictor import Predictor
from .trainer import MaskXTrainer
from .yaml_main import setup

__all__ = ["LoadedModel", "MaskXTrainer", "Predictor", "load_model", "main", "run", "setup"]
