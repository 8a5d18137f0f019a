"""The notebook runs from start to end, and its output is kept."""

import nbformat
from conftest import REPOSITORY
from nbclient import NotebookClient

NOTEBOOK = REPOSITORY / "demo" / "walkthrough.ipynb"


def test_it_runs(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("ITERATIONS", "3")
    monkeypatch.setenv("OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(REPOSITORY / "demo")}}
    ).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
    text = "".join(o.get("text", "") for o in outputs)
    assert "Evaluation by split 'a27b9'" in text and "0 instances still without a mask" in text
    assert (tmp_path / "output" / "report.html").is_file()


def test_its_output_is_there():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [o.output_type for cell in cells for o in cell.outputs]
    assert "error" not in kinds and kinds.count("display_data") == 4
