"""What makes a resumed training go on exactly as the uninterrupted one would have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from .._files import written_whole
from ..data.train_loader import derived_seed

__all__ = ["AtomicWrites", "SeedEachIteration"]


class SeedEachIteration(HookBase):
    """
    Seeds all random numbers of an iteration from the run's seed and the iteration.

    Detectron2 seeds once, when a process starts, so a resumed training would sample other RoIs.
    """

    def __init__(self, seed: int) -> None:
        """
        Args:
            seed: of the run. Each process of a distributed training makes its own of it.
        """
        self._seed = seed

    def before_step(self) -> None:
        """See :meth:`HookBase.before_step`."""
        seed_all_rng(derived_seed(self._seed, comm.get_rank(), self.trainer.iter))


class AtomicWrites:
    """
    A path manager whose local files are there completely or not at all.

    A process may be killed while it writes a checkpoint, or the file that names the last one. Set
    it as a checkpointer's ``path_manager``.
    """

    def __init__(self, path_manager: Any) -> None:
        """
        Args:
            path_manager: the one to write with, such as detectron2's ``PathManager``.
        """
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    @contextmanager
    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Iterator[Any]:
        """See :meth:`PathManager.open`."""
        is_local = "w" in mode and "://" not in path
        with (
            written_whole(path) if is_local else nullcontext(path) as written,
            self._path_manager.open(str(written), mode, **kwargs) as file,
        ):
            yield file
