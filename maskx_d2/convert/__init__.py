"""Checkpoints of the authors' code as models of this package."""

from .caffe2_model import Caffe2Model, read_caffe2_model
from .converting import Converted, convert
from .restricted_pickle import load_restricted

__all__ = ["Caffe2Model", "Converted", "convert", "load_restricted", "read_caffe2_model"]
