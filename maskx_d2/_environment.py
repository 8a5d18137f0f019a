"""What must be installed, and which warnings of it a user can't act on."""

from __future__ import annotations

import importlib
import warnings

__all__: list[str] = []

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
    (r"torch\.meshgrid: in an upcoming release", UserWarning),
    (r".*is_fx_tracing will return true", UserWarning),
    (r"The given NumPy array is not writable", UserWarning),
    (r"pkg_resources is deprecated as an API", Warning),
    (r"__array__ implementation doesn't accept a copy keyword", DeprecationWarning),
    (r"You are using `torch\.load` with `weights_only=False`", FutureWarning),
)


def _quiet_dependencies() -> None:
    for message, category in _NOISE:
        warnings.filterwarnings("ignore", message=message, category=category)


def _require(module: str, command: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as e:  # a broken binary raises RuntimeError or OSError, not ImportError
        missing = isinstance(e, ModuleNotFoundError) and e.name == module
        reason = "is not installed" if missing else f"does not load ({type(e).__name__}: {e})"
        raise ImportError(f"maskx_d2 needs {module}, which {reason}; run: {command}") from None


_quiet_dependencies()
_require("torch", _TORCH)
_require("torchvision", f"{_TORCH} --upgrade --force-reinstall")
_require("detectron2", _DETECTRON2)
