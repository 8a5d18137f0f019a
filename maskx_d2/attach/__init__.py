"""A mask branch for a box detector that is trained already, and stays as it is."""

from .attached_cfg import attach_cfg
from .attached_lazy import attach_lazy
from .attaching import attached_config, check_output, is_evaluated, write_attached_config

__all__ = [
    "attach_cfg",
    "attach_lazy",
    "attached_config",
    "check_output",
    "is_evaluated",
    "write_attached_config",
]
