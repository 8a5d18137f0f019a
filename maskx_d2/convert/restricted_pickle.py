"""
Reading pickled arrays without running what else a pickle may hold.

Not even numpy is called as the file says: ``numpy.ndarray`` takes a buffer of bytes for pointers if
it is asked to. What a pickle of arrays asks for is made here, out of checked parts.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_restricted"]

# Numbers, booleans and strings of a fixed length: nothing that holds an address.
_DTYPE = re.compile(r"[<>=|]?[biufcSU]\d{1,3}")


class _RefusedError(pickle.UnpicklingError):
    """The file asks for something else than arrays."""


class _DType:
    """A ``numpy.dtype`` that is being read."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_flags: Any) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _RefusedError(f"it has an array of type {code!r:.40}")
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1]
        if isinstance(order, bytes):
            order = order.decode("ascii")
        if order not in ("<", ">", "=", "|"):
            raise ValueError("the order of an array's bytes is none")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """A ``numpy.ndarray`` that is being read: empty at first, then given its state."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


class _Call:
    """Stands where the file names a function; it can be called and not be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, _state: Any) -> None:
        raise _RefusedError("it changes a function")


def _array(
    data: Any, dtype: Any, shape: Any, order: Any = "C", axis_order: Any = None
) -> NDArray[Any]:
    data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _DType):
        raise ValueError("an array is not made of bytes and a type")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"the shape of an array is {shape!r:.40}")
    if len(data) != math.prod(shape) * dtype.dtype.itemsize or order not in ("C", "F", "K"):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
    if order == "K":  # how numpy, since 2.4, says the order of an array's axes in memory
        array = array.transpose(tuple(axis_order))
    return array.copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, ())[()]


def _reconstruct(kind: Any, _shape: Any, _dtype: Any) -> _Array:
    if kind is not _NDARRAY:
        raise _RefusedError("it has an array of a class of its own")
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in an old protocol."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"it has bytes in the encoding {encoding!r:.40}")
    return text.encode("latin1")


def _uncallable(*_args: Any) -> Any:
    raise _RefusedError("it makes an array from an address")


_NDARRAY = _Call(_uncallable)
#: What a pickle of numpy arrays asks for, under numpy's names before and since version 2.
_KNOWN: dict[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Call(_DType),
    ("_codecs", "encode"): _Call(_encode),
}
for _core in ("core", "_core"):
    _KNOWN |= {
        (f"numpy.{_core}.multiarray", "_reconstruct"): _Call(_reconstruct),
        (f"numpy.{_core}.multiarray", "scalar"): _Call(_scalar),
        (f"numpy.{_core}.numeric", "_frombuffer"): _Call(_array),
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"it asks for '{module}.{name}'")
        return _KNOWN[module, name]


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
            return _finished(_Unpickler(f, encoding="latin1").load())
    except FileNotFoundError:
        raise FileNotFoundError(f"file '{path}' does not exist.") from None
    except IsADirectoryError:
        raise ValueError(f"'{path}' is a folder; name a checkpoint.") from None
    except _RefusedError as e:
        raise ValueError(
            f"file '{path}' is refused: {e}, but a checkpoint holds arrays of numbers only, and a "
            "pickle can run any program when it is read."
        ) from None
    # What a damaged stream makes of the unpickler's stack and of the numbers within.
    except (AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError) as e:
        raise ValueError(f"file '{path}' is damaged or no pickle: {e}.") from None
    except (OverflowError, MemoryError, UnicodeDecodeError, ValueError) as e:
        raise ValueError(f"file '{path}' is damaged or no pickle: {e}.") from None
    except pickle.UnpicklingError as e:
        raise ValueError(f"file '{path}' is damaged or no pickle: {e}.") from None


def _finished(content: Any) -> Any:
    """The same with arrays in place of those that were being read."""
    done: dict[int, Any] = {}  # what is there several times is gone through once

    def finish(value: Any) -> Any:
        if isinstance(value, _Array):
            if value.array is None:
                raise ValueError("an array has no content")
            return value.array
        if isinstance(value, (_Call, _DType)):
            raise _RefusedError("it has something that is no array")
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, tuple):
            done[id(value)] = tuple(map(finish, value))
            return done[id(value)]
        if isinstance(value, (dict, list)):
            done[id(value)] = value
            places = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in list(places):
                value[key] = finish(part)
        return value

    try:
        return finish(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
