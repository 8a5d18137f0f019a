"""What a data set says, in few letters: what was made of another is told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["dataset_hash"]


def dataset_hash(dataset_dicts: Iterable[dict[str, Any]]) -> str:
    """A SHA-256 of all that dataset dicts say, masks included, as hexadecimal digits."""
    digest = hashlib.sha256()
    for record in dataset_dicts:
        digest.update(json.dumps(record, sort_keys=True, default=_as_text).encode())
    return digest.hexdigest()


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.tobytes().hex() if isinstance(value, np.ndarray) else str(value)
