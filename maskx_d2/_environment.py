"""What must be installed, and which warnings of it a user can't act on."""

from __future__ import annotations

import importlib
import logging
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


def _quiet_torch_fx() -> None:
    # The same message as a log record, in newer versions of torch.
    logging.getLogger("torch.fx._symbolic_trace").addFilter(
        lambda record: "is_fx_tracing will return true" not in record.getMessage()
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
_quiet_torch_fx()
_require("torch", _TORCH)
_require_torch_2()
_require("torchvision", f"{_TORCH} --upgrade --force-reinstall")
_require("detectron2", _DETECTRON2)
