"""What must be installed, and which warnings of it a user can't act on."""

from __future__ import annotations

import importlib
import logging
import os
import warnings

__all__ = ["available_cores"]

_TORCH = "python -m pip install torch torchvision"
_DETECTRON2 = (
    "python -m pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git'"
)

# (start of the message as a regular expression, category): raised inside torch, detectron2,
# pycocotools or fvcore by what detectron2 does, harmless, and nothing that a user could change.
_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    (r"`torch\.jit\.(script|trace|interface)` is deprecated", FutureWarning),
    (r"`torch\.jit\.(script|trace|interface)` is deprecated", DeprecationWarning),
    (r"`?torch\.cuda\.amp\.", FutureWarning),
    (r"torch\.cuda\.amp\.GradScaler is enabled, but CUDA is not available", UserWarning),
    (r"`broadcast_buffers` is deprecated", FutureWarning),
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
    (r".*is_fx_tracing will return true", UserWarning),
    (r"The given NumPy array is not writable", UserWarning),
    (r"Creating a tensor from a list of numpy.ndarrays", UserWarning),
    (r"Importing from timm\.models\.layers is deprecated", FutureWarning),
    (r"pkg_resources is deprecated as an API", Warning),
    (r"__array__ implementation doesn't accept a copy keyword", DeprecationWarning),
    (r"You are using `torch\.load` with `weights_only=False`", FutureWarning),
)


def available_cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


def _quiet_dependencies() -> None:
    for message, category in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)


# logger → start of a message: newer versions of torch log what older ones warned of.
_LOGGED_NOISE = {
    "torch.fx._symbolic_trace": "is_fx_tracing will return true",
    "torch.utils.cpp_extension": "No CUDA runtime is found",  # on a CPU that is no news
}


def _quiet_logs() -> None:
    for name, message in _LOGGED_NOISE.items():
        logging.getLogger(name).addFilter(
            lambda record, message=message: not record.getMessage().startswith(message)
        )


def _require(module: str, command: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as e:  # a broken binary raises RuntimeError or OSError, not ImportError
        missing = isinstance(e, ModuleNotFoundError) and e.name == module
        reason = "is not installed" if missing else f"does not load ({type(e).__name__}: {e})"
        raise ImportError(f"maskx_d2 needs {module}, which {reason}; run: {command}") from None


def _require_torch_2() -> None:
    version = importlib.import_module("torch").__version__
    if int(version.split(".")[0]) < 2:
        raise ImportError(f"maskx_d2 needs torch 2.0 or newer, not {version}; run: {_TORCH} -U")


_quiet_dependencies()
_quiet_logs()
_require("torch", _TORCH)
_require_torch_2()
_require("torchvision", f"{_TORCH} --upgrade --force-reinstall")
_require("detectron2", _DETECTRON2)
_require("detectron2.data", _DETECTRON2)  # old ones don't load with a new Pillow
