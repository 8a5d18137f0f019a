"""The ``maskx`` command itself: help, mistakes, completion, and the other ways to call it."""

import subprocess
import sys

import pytest

from maskx_d2.cli import main, make_parser


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
