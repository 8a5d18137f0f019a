"""The table, the CSV file and the plot of a grid."""

import csv

import numpy as np
import pytest
from PIL import Image

from maskx_d2.experiments import cell_files, load_grid, write_results

GRID = """
output: out
seeds: [1, 2, 3]
splits: {voc: [], nonvoc: []}
methods: {class-agnostic: {config: a.yaml}, transfer: {config: a.yaml}}
table: {columns: {"mask AP, B": segm_B/AP, AP50: segm_B/AP50}}
published:
  source: Hu et al., CVPR 2018, Table 1c
  voc: {class-agnostic: {segm_B/AP: 14.2}}
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("SEED: 1\n")
    (tmp_path / "grid.yaml").write_text(GRID)
    return load_grid("grid.yaml")


def done(cell, ap):
    cell.folder.mkdir(parents=True)
    cell_files.record_settings(cell)
    cell_files.record_done(cell, {"segm_B/AP": ap, "segm_B/AP50": 2 * ap, "bbox/AP": 30.0})


def fill(grid):
    """Class-agnostic in voc: 3 seeds; transfer: 1 seed and 1 failure. Nothing in nonvoc."""
    for cell, ap in zip(grid.cells[:4], (10.0, 12.0, 14.0, 20.5)):
        done(cell, ap)
    failed = grid.cells[4]
    failed.folder.mkdir(parents=True)
    cell_files.record_settings(failed)
    cell_files.record_failed(failed, "ended with exit status 3", 3)


def test_table(grid, tmp_path):
    fill(grid)
    text = write_results(grid, tmp_path / "table")
    assert (tmp_path / "table" / "results.md").read_text() == text
    assert text == "\n".join(
        [
            "## voc",
            "",
            "| method         |     mask AP, B |   paper |           AP50 |",
            "|:---------------|---------------:|--------:|---------------:|",
            "| class-agnostic | 12.0 ± 2.0 (3) |    14.2 | 24.0 ± 4.0 (3) |",
            "| transfer       |       20.5 (1) |       - |       41.0 (1) |",
            "",
            "## nonvoc",
            "",
            "| method         |   mask AP, B |   AP50 |",
            "|:---------------|-------------:|-------:|",
            "| class-agnostic |            - |      - |",
            "| transfer       |            - |      - |",
            "",
            "Mean ± standard deviation over seeds (number of seeds).",
            "",
            "Paper: Hu et al., CVPR 2018, Table 1c.",
            "",
            "8 of 12 cells are missing, 1 of them failed: voc/transfer/seed2.",
            "",
        ]
    )


def test_differences_are_taken_seed_by_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("SEED: 1\n")
    with_reference = GRID.replace("table: {", "table: {reference: class-agnostic, ")
    (tmp_path / "grid.yaml").write_text(with_reference)
    grid = load_grid("grid.yaml")
    # Seeds differ by far more than methods do, which a comparison of means would drown in.
    for cell, ap in zip(grid.cells[:6], (10.0, 20.0, 30.0, 11.0, 22.0, 33.0)):
        done(cell, ap)
    table = [line.split("|") for line in write_results(grid, tmp_path).splitlines() if "|" in line]
    assert table[0][-2].strip() == "minus class-agnostic"
    assert table[2][-2].strip() == ""
    # 1, 2, 3: mean 2, standard error 1 / sqrt(3), and the 97.5 % quantile of t with 2 degrees.
    assert table[3][-2].strip() == f"+2.0 ± {4.303 / 3**0.5:.1f}"


def test_reference_must_be_a_method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("SEED: 1\n")
    (tmp_path / "grid.yaml").write_text(GRID.replace("table: {", "table: {reference: agnostic, "))
    with pytest.raises(ValueError, match="method in reference of table"):
        load_grid("grid.yaml")


def test_csv_has_a_row_for_each_cell_and_all_metrics(grid, tmp_path):
    fill(grid)
    write_results(grid, tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[1] == {
        **{"split": "voc", "method": "class-agnostic", "seed": "2", "state": "done"},
        **{"segm_B/AP": "12.0", "segm_B/AP50": "24.0", "bbox/AP": "30.0"},
    }
    assert (rows[4]["state"], rows[4]["segm_B/AP"], rows[5]["state"]) == ("failed", "", "new")


def test_plot_is_a_picture_with_something_in_it(grid, tmp_path):
    fill(grid)
    write_results(grid, tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "results.png").convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert (np.abs(pixels - [31, 119, 180]).sum(axis=2) < 10).sum() > 100, "the means"


def test_all_missing_and_undefined_metrics(grid, tmp_path):
    assert "12 of 12 cells are missing." in write_results(grid, tmp_path)
    for cell in grid.cells:
        done(cell, float("nan"))
    text = write_results(grid, tmp_path)
    assert "| nan ± nan (3) |" in text and "missing" not in text


def test_results_of_other_settings_are_refused(grid, tmp_path):
    fill(grid)
    (tmp_path / "a.yaml").write_text("SEED: 2\n")
    with pytest.raises(ValueError, match=r"config file 'a\.yaml' or one below it has changed; cho"):
        write_results(load_grid("grid.yaml"), tmp_path)


def test_the_last_evaluation_counts(tmp_path):
    lines = [
        '{"iteration": 9, "loss": 1.0, "mask_rcnn/accuracy": 0.5}',
        '{"iteration": 9, "bbox/AP": 1.0, "segm_B/AP": 2.0, "segm_B/AP50": NaN}',
        '{"iteration": 19, "bbox/AP": 3.0, "segm_B/AP": 4.0, "loss": 2.0, "rpn/num": 3}',
        '{"iteration": 20, "loss": 1.0, "mask_rcnn/accuracy": 0.5}',
        '{"iteration": 21, "bbox/A',
    ]
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert cell_files.final_metrics(tmp_path, ["segm_B/AP"]) == {"bbox/AP": 3.0, "segm_B/AP": 4.0}
    assert cell_files.final_metrics(tmp_path, ["rpn/num"]) == {
        **{"bbox/AP": 3.0, "segm_B/AP": 4.0, "rpn/num": 3}
    }
    assert cell_files.final_metrics(tmp_path / "nothing", ["segm_B/AP"]) == {}


def test_progress_is_the_share_of_iterations(tmp_path):
    assert cell_files.progress(tmp_path) == 0
    (tmp_path / "metrics.json").write_text('{"iteration": 9}\n{"iteration": 19}\n{"iter')
    assert cell_files.progress(tmp_path) == 0
    for text in ("SOLVER:\n  MAX_ITER: 80\n", "train:\n  max_iter: 80\n"):
        (tmp_path / "config.yaml").write_text(text)
        assert cell_files.progress(tmp_path) == 0.25
