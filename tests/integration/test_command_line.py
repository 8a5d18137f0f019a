"""The ``maskx`` command itself: help, mistakes, completion, and the other ways to call it."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

from maskx_d2.cli import main, make_parser
from maskx_d2.experiments import load_grid


def sub_parsers(parser):
    for action in parser._actions:
        if hasattr(action, "_name_parser_map"):
            for name, sub in action.choices.items():
                yield name, sub
                yield from sub_parsers(sub)


def test_every_command_shows_examples_first(capsys):
    found = dict(sub_parsers(make_parser()))
    assert {"label", "predict", "attach", "run", "table"} <= set(found)
    for name, parser in found.items():
        text = parser.format_help()
        if name in ("run", "table"):  # whose examples are those of experiments
            continue
        assert "examples:\n  maskx " in text, name
        assert text.index("examples:") < text.index("\noptions:"), name
    with pytest.raises(SystemExit) as e:
        main(["--help"])
    assert e.value.code == 0
    text = capsys.readouterr().out
    assert text.index("examples:") < text.index("\noptions:") < text.index("\ncommands:")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lable"], "did you mean label?"),
        (["check", "x.json", "--imageroot", "y"], "maskx check: error: unrecognized arguments"),
        (["check", "x.json", "--imageroot", "y"], "did you mean --image-root?"),
        (["check", "x.json", "--lim", "3"], "did you mean --limit?"),
        (["experiments", "rum"], "did you mean run?"),
        (["export", "--format", "onxx"], "did you mean onnx?"),
        (["check", "x.json", "--zzz"], "unrecognized arguments: --zzz\n"),
    ],
)
def test_mistakes_get_a_guess(argv, said, capsys):
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2
    assert said in capsys.readouterr().err


def test_mistakes_are_not_hidden_by_the_usage(capsys):
    with pytest.raises(SystemExit):
        main(["predict"])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("maskx predict: error: the following arguments are required: ")
    assert second == "maskx predict --help says more."


MODEL = ["--config-file", "c.yaml", "--weights", "w.pth"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", *MODEL, "--output", "FILE", "FILE"], "--output: 'FILE' is a file; name a fol"),
        (["predict", *MODEL, "--output", "FILE/in", "FILE"], "--output: 'FILE' is a file; name a"),
        (["predict", *MODEL, "--json", "DIR", "FILE"], "--json: 'DIR' is a folder; name a file"),
        (["predict", *MODEL, "--output", "o", "--limit", "-1", "FILE"], "--limit must be at least"),
        (["predict", *MODEL, "--output", "o", "--confidence", "2", "FILE"], "between 0 and 1"),
        (["predict", *MODEL, "--output", "o", "--confidence", "nan", "FILE"], "between 0 and 1"),
        (["predict", *MODEL, "--output", "o", "--scale", "0", "FILE"], "--scale must be more tha"),
        (["predict", *MODEL, "--output", "o", "--dataset", "shapes_vall"], "mean 'shapes_val'?"),
        (["samples", "--config-file", "FILE", "--output", "o", "--limit", "0"], "--limit must be"),
        (["samples", "--config-file", "FILE", "--output", "o", "--scale", "-1"], "--scale must b"),
        (["samples", "--config-file", "FILE", "--output", "FILE"], "--output: 'FILE' is a file"),
        (["attach", *MODEL, "--output", "FILE"], "--output: 'FILE' is a file"),
        (["bake", *MODEL, "--output", "FILE"], "--output: 'FILE' is a file"),
        (["label", *MODEL, "--dataset", "FILE", "--output", "DIR"], "--output: 'DIR' is a folder"),
        (["report", "DIR", "--output", "DIR"], "--output: 'DIR' is a folder; name a file"),
        (["report", "DIR", "--output", "o", "--examples", "-1"], "--examples must not be negative"),
        (["check", "shapes_vall"], "nor a file; did you mean 'shapes_val'?"),
    ],
)
def test_what_can_be_known_before_the_work_begins(argv, said, tmp_path, capsys):
    (tmp_path / "file.yaml").touch()

    def real(text):
        return text.replace("FILE", str(tmp_path / "file.yaml")).replace("DIR", str(tmp_path))

    with pytest.raises(SystemExit) as e:
        main([real(word) for word in argv])
    assert e.value.code == 2
    assert real(said) in capsys.readouterr().err


def test_a_grid_has_as_many_cells_as_its_table(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    grid = "configs/grids/shapes.yaml"
    assert main(["experiments", "run", grid, "--dry-run"]) == 0
    loaded = load_grid(grid)
    cells, shared = len(loaded.cells), len(loaded.shared)
    assert shared
    assert f"\n{cells} cells of the table and {shared} that others start from; " in (
        capsys.readouterr().out
    )


def test_python_m_completes_options_and_files(tmp_path):
    argv = [sys.executable, "-m", "maskx_d2", "--print-completion", "bash"]
    script = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    (tmp_path / "boxes.json").touch()

    def completed(*words):
        line = " ".join(f"'{w}'" for w in words)
        code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_maskx\n"
        code += 'printf "%s\\n" "${COMPREPLY[@]}"'
        bash = ["bash", "-c", code]
        done = subprocess.run(bash, capture_output=True, text=True, cwd=tmp_path, check=True)
        return done.stdout.split()

    assert completed("maskx", "la") == ["label"]
    assert completed("maskx", "label", "--mer") == ["--merge"]
    assert completed("maskx", "label", "--dataset-json", "bo") == ["boxes.json"]
    assert completed("maskx", "export", "--format", "on") == ["onnx"]


def test_what_the_system_refuses_is_one_sentence(monkeypatch, capsys):
    def full(_args):
        raise OSError(28, "No space left on device", "pictures/1.jpg")

    monkeypatch.setattr("maskx_d2.cli.check._run", full)  # parsers are made anew
    with pytest.raises(SystemExit) as stopped:
        main(["check", "any.json"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("maskx check: error: No space left on device: 'pictures/1.jpg'")


def test_a_place_that_must_not_be_written_to_is_said_before_the_work(monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda *_: False)
    command = ["predict", *MODEL, "a.jpg"]
    for option, path in (("--output", "/nowhere/pictures"), ("--json", "/nowhere/found.json")):
        with pytest.raises(SystemExit):
            main([*command, option, path])
        assert f"{option}: nothing may be written to '/'" in capsys.readouterr().err
