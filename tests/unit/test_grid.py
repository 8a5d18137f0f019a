"""Grids of experiments: what their files may say, and the cells they make."""

import sys

import pytest
import yaml
from conftest import REPOSITORY

from maskx_d2.experiments import load_grid
from maskx_d2.experiments.config_files import contents_hash


@pytest.fixture(autouse=True)
def config_files(tmp_path, monkeypatch):
    """Configs are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("_BASE_: base.yaml\nSEED: 1\n")
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 4}\n")
    (tmp_path / "b.py").write_text("from .common import model\n")
    (tmp_path / "common.py").write_text("model = dict(width=2)\n")


def content(**changes):
    said = {
        "output": "out",
        "seeds": [1, 2],
        "common": ["A.KEY", 1],
        "splits": {"voc": ["DATASETS.TEST", "('x',)"], "nonvoc": []},
        "shared": {"detector": {"config": "a.yaml", "opts": ["MASK_ON", False], "per": ["seed"]}},
        "methods": {
            "class-agnostic": {"config": "a.yaml"},
            "transfer + MLP": {"config": "a.yaml", "opts": ["K", [1, 2]], "after": "detector"},
        },
        "table": {"columns": {"mask AP, B": "segm_B/AP", "AP50": "segm_B/AP50"}},
    }
    return {k: v for k, v in {**said, **changes}.items() if v is not None}


def load(**changes):
    with open("grid.yaml", "w") as file:
        yaml.safe_dump(content(**changes), file, sort_keys=False)
    return load_grid("grid.yaml")


def test_cells_are_splits_times_methods_times_seeds():
    grid = load()
    assert [c.name for c in grid.cells] == [
        f"{s}/{m}/seed{k}"
        for s in ("voc", "nonvoc")
        for m in ("class-agnostic", "transfer + MLP")
        for k in (1, 2)
    ]
    cell = grid.cells[2]
    assert cell.folder.as_posix() == "out/voc/transfer_+_MLP/seed1"
    assert cell.command_line("w.pth") == [
        *(sys.executable, "-c", "from maskx_d2.engine import run; run()"),
        *("--config-file", "a.yaml", "--resume", "A.KEY", "1", "DATASETS.TEST", "('x',)"),
        *("K", "[1, 2]", "SEED", "1", "OUTPUT_DIR", "out/voc/transfer_+_MLP/seed1"),
        *("MODEL.WEIGHTS", "w.pth"),
    ]


def test_a_shared_run_is_there_once_for_what_it_is_per():
    def names(per):
        shared = {"detector": {"config": "a.yaml", **({} if per is None else {"per": per})}}
        return [cell.name for cell in load(shared=shared).shared]

    assert names(["seed"]) == ["shared/detector/seed1", "shared/detector/seed2"]
    assert names(["split"]) == ["shared/detector/voc/seed1", "shared/detector/nonvoc/seed1"]
    assert names([]) == ["shared/detector/seed1"]
    assert len(names(None)) == 4, "by default each cell has its own"
    once, each = (
        load(shared={"detector": {"config": "a.yaml", "per": p}}) for p in ([], ["split", "seed"])
    )
    assert once.shared[0].opts == ("A.KEY", "1")
    assert each.shared[0].opts == ("A.KEY", "1", "DATASETS.TEST", "('x',)")
    assert once.cells[2].after.is_shared and once.cells[2].after == once.cells[7].after


def test_without_splits_and_for_lazy_configs():
    grid = load(
        splits=None, common=["train.max_iter=3"], shared=None, methods={"x y": {"config": "b.py"}}
    )
    cell = grid.cells[1]
    assert (cell.name, cell.folder.as_posix()) == ("x y/seed2", "out/x_y/seed2")
    assert cell.command_line('a "b".pth')[3:] == [
        *("--config-file", "b.py", "--resume", "train.max_iter=3", "train.seed=2"),
        *('train.output_dir="out/x_y/seed2"', r'train.init_checkpoint="a \"b\".pth"'),
    ]


def test_a_method_like_another_adds_to_it():
    methods = {
        "one": {"config": "a.yaml", "opts": ["K", 1], "after": "detector"},
        "two": {"like": "one", "opts": ["L", 2]},
        "three": {"like": "two", "config": "base.yaml", "after": None},
    }
    one, two, three = load(seeds=[1], splits=None, methods=methods).cells
    assert one.opts == ("A.KEY", "1", "K", "1")
    assert two.opts == three.opts == (*one.opts, "L", "2")
    assert two.after == one.after is not None and three.after is None
    assert (two.config, three.config) == ("a.yaml", "base.yaml")


def test_options_may_name_the_split_and_the_seed():
    grid = load(splits={"voc": ["DATASETS.TEST", "('x_{split}_seed{seed}',)"]})
    opts = [c.opts[3] for c in grid.cells if c.after is None]
    assert opts == ["('x_voc_seed1',)", "('x_voc_seed2',)"]


def test_a_grid_on_top_of_another(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "grid.yaml").write_text(yaml.safe_dump(content(), sort_keys=False))
    changes = {
        "_BASE_": "base/grid.yaml",
        "seeds": [5],
        "splits": {"nonvoc": None},
        "methods": {"class-agnostic": {"opts": ["K", 3]}, "new": {"config": "base.yaml"}},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(changes))
    grid = load_grid("grid.yaml")
    assert [c.name for c in grid.cells] == [
        *("voc/class-agnostic/seed5", "voc/transfer + MLP/seed5", "voc/new/seed5")
    ]
    assert (grid.cells[0].config, grid.cells[0].opts[-2:]) == ("a.yaml", ("K", "3"))
    (tmp_path / "grid.yaml").write_text("_BASE_: none.yaml")
    with pytest.raises(ValueError, match=r"grid 'grid\.yaml': _BASE_ 'none\.yaml' does not exist"):
        load_grid("grid.yaml")
    (tmp_path / "grid.yaml").write_text("_BASE_: grid.yaml")
    with pytest.raises(ValueError, match=r"'grid\.yaml' is its own _BASE_"):
        load_grid("grid.yaml")
    (tmp_path / "grid.yaml").write_text("_BASE_: base/grid.yaml\nseeds: {a: 1}")
    with pytest.raises(ValueError, match="'seeds'"):
        load_grid("grid.yaml")


def test_a_command_of_ones_own():
    command = load(command=["python", "my_train.py", "--num-gpus", 8]).cells[0].command_line()
    assert command[:5] == [sys.executable, "my_train.py", "--num-gpus", "8", "--config-file"]


def test_selected_cells_come_with_what_they_start_from():
    grid = load()
    assert len(grid.select()) == 10
    assert [c.name for c in grid.select("voc/transfer*seed2")] == [
        *("shared/detector/seed2", "voc/transfer + MLP/seed2", "nonvoc/transfer + MLP/seed2")
    ]
    with pytest.raises(ValueError, match="no cell's name contains 'seed3'; the last of 10 is 'non"):
        grid.select("seed3")


def test_published_figures():
    published = {"source": "Hu et al.", "voc": {"class-agnostic": {"segm_B/AP": 14}}}
    grid = load(published=published)
    assert grid.published == {("voc", "class-agnostic", "segm_B/AP"): 14.0}
    assert grid.source == "Hu et al."
    without_splits = {"source": "Hu et al.", "class-agnostic": {"segm_B/AP": 14.2}}
    grid = load(splits=None, published=without_splits)
    assert grid.published == {("", "class-agnostic", "segm_B/AP"): 14.2}


METHOD = {"config": "a.yaml"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": {}}, "'metods' is no key of the grid; did you mean 'methods'"),
        ({"table": None}, "the grid lacks the key 'table'"),
        ({"seeds": [1, 1]}, r"seeds must be a list of different numbers from 0 on, not \[1, 1\]"),
        ({"seeds": []}, "seeds must be a list"),
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"m": {"config": "a.yaml", "opt": []}}}, "of method 'm'; did you mean 'opts'"),
        ({"methods": {"m": {"opts": []}}}, "method 'm' lacks the key 'config'"),
        ({"methods": {"m": "a.yaml"}}, "method 'm' must be a mapping of keys to values"),
        ({"methods": {1: METHOD}}, "name 1 in methods is not text; put it in quotes"),
        ({"methods": {"a b": METHOD, "a_b": METHOD}}, "'a b' and 'a_b' in methods make the same"),
        ({"methods": {"shared": METHOD}}, "'shared' is the folder of shared runs"),
        ({"methods": {"m": {**METHOD, "after": "detektor"}}}, "did you mean 'detector'"),
        ({"methods": {"m": METHOD}}, "no method comes after shared run 'detector'; remove it"),
        ({"methods": {"m": {"config": "c.yaml"}}}, "config file 'c.yaml' does not exist"),
        ({"methods": {"m": {**METHOD, "opts": ["K"]}}}, "must be pairs KEY, VALUE, as for a.yaml"),
        ({"methods": {"m": {"config": "b.py"}}}, "common: 'A.KEY' is not \"key=value\", as for b"),
        ({"common": "A 1"}, "common must be a list, not 'A 1'"),
        ({"command": []}, "command is empty"),
        ({"shared": {"detector": {**METHOD, "per": ["seeds"]}}}, "did you mean 'seed'"),
        ({"table": {"columns": {"AP": 3}}}, "column 'AP' must be text, not 3"),
        ({"published": {"voc": {}}}, "published lacks the key 'source'"),
        ({"published": {"source": "", "coc": {}}}, "no split in published; did you mean 'voc'"),
        (
            {"published": {"source": "", "voc": {"class-agnostic": {"segm_A/AP": 1}}}},
            "'segm_A/AP' is no metric of the table in published; did you mean 'segm_B/AP'",
        ),
    ],
)
def test_a_mistake_is_one_sentence(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(**changes)


def test_files_that_are_no_grids(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"grid 'nowhere\.yaml' does not exist"):
        load_grid("nowhere.yaml")
    for text, message in (
        ("seeds: [1]\nseeds: [2]\n", "key 'seeds' is there twice, again in line 2"),
        ("", "the grid must be a mapping of keys to values, not None"),
        ("a: [", "grid 'bad.yaml': while parsing"),
        ("a: {{b}}", "grid 'bad.yaml': while constructing"),
        ("a: &x [*x]", "grid 'bad.yaml'"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_grid("bad.yaml")


@pytest.mark.parametrize(
    ("config", "file", "comment", "change"),
    [
        ("a.yaml", "a.yaml", "_BASE_: base.yaml  # a comment\nSEED: 1\n", "SEED: 2\n"),
        ("a.yaml", "base.yaml", "SOLVER: {MAX_ITER:   4}\n", "SOLVER: {MAX_ITER: 5}\n"),
        ("b.py", "common.py", '"""Of."""\nmodel = dict(width=2)  # this\n', "model = dict()\n"),
    ],
)
def test_the_hash_of_a_config_follows_what_it_says(tmp_path, config, file, comment, change):
    before = contents_hash(config)
    (tmp_path / file).write_text(comment)
    assert contents_hash(config) == before
    (tmp_path / file).write_text(change)
    assert contents_hash(config) != before


def test_the_hash_reads_every_packaged_config():
    names = [p for p in (REPOSITORY / "configs").rglob("*") if p.suffix in (".yaml", ".py")]
    assert len({contents_hash(path) for path in names}) > 10


def test_the_example_grids_load(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for path in (REPOSITORY / "configs" / "grids").glob("*.yaml"):
        assert load_grid(path).select()
