"""Checkpoints for other categories than they were trained on."""

from .surgery import Surgery, change_vocabulary
from .surgery_files import operate

__all__ = ["Surgery", "change_vocabulary", "operate"]
