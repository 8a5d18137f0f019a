"""Grids of trainings: methods × splits × seeds, run on what there is, and their table."""

from .grid import Cell, Grid, load_grid
from .results import write_results
from .runner import Slot, cpu_slots, gpu_slots, run_cells

__all__ = [
    "Cell",
    "Grid",
    "Slot",
    "cpu_slots",
    "gpu_slots",
    "load_grid",
    "run_cells",
    "write_results",
]
