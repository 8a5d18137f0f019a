"""Reading pickled arrays without running what else a pickle may hold."""

from __future__ import annotations

import os
import pickle
from typing import Any

__all__ = ["load_restricted"]

#: What a pickle of numpy arrays calls, under numpy's names before and since version 2, and how
#: Python 3 writes bytes in an old protocol. None of it does more than make an array or a string.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
    ("_codecs", "encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}'")
        return super().find_class(module, name)


def load_restricted(path: str | os.PathLike[str]) -> Any:
    """
    Unpickle dicts, lists, strings, numbers and numpy arrays; nothing else is looked up or called.

    Args:
        path: of a file of Python 2 or 3, whose strings are read as Latin-1.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it holds anything else, which is named, or is no pickle.
    """
    try:
        with open(path, "rb") as f:
            return _Unpickler(f, encoding="latin1").load()
    except FileNotFoundError:
        raise FileNotFoundError(f"file '{path}' does not exist.") from None
    except pickle.UnpicklingError as e:
        raise ValueError(
            f"file '{path}' is refused: {e}, but a checkpoint holds numpy arrays only, and a "
            "pickle can run any program when it is read."
        ) from None
    # What a damaged stream makes of the unpickler's stack and of the numbers within.
    except (AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError) as e:
        raise ValueError(f"file '{path}' is damaged or no pickle: {e}.") from None
    except (OverflowError, MemoryError, UnicodeDecodeError, ValueError) as e:
        raise ValueError(f"file '{path}' is damaged or no pickle: {e}.") from None
