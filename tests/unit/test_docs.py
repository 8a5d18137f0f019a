"""What the documentation says exists: links, commands and their options, what is imported."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import REPOSITORY

from maskx_d2.cli import make_parser

PAGES = [REPOSITORY / "README.md", REPOSITORY / "datasets" / "README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))


def blocks(page, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def slug(heading):
    """The anchor that code hosts make of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return kept.replace(" ", "-")


@by_name
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), flags=re.MULTILINE)
            assert anchor in map(slug, headings), target


def commands():
    """(page, words) of every maskx command in a block of commands."""
    for page in PAGES:
        for text in blocks(page, "", "bash", "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;|\|", line):
                    if "maskx " not in part:
                        continue
                    words = shlex.split(part.split("  #")[0].split(" # ")[0].rstrip("& "))
                    while words and re.match(r"\w+=", words[0]):  # environment variables
                        words.pop(0)
                    if words[:1] == ["maskx"]:
                        yield page.name, words[1:]


def test_commands_and_their_options_are_known():
    parser = make_parser()
    count = 0
    for page, words in commands():
        current = parser
        for word in words:
            sub = next((a.choices for a in current._actions if hasattr(a, "_name_parser_map")), {})
            if word in sub:
                current = sub[word]
        if words[0] != "COMMAND":
            assert current is not parser, (page, words)
        options = [word.split("=")[0] for word in words if word.startswith("--") and word != "--"]
        unknown = [o for o in options if o not in current._option_string_actions]
        assert not unknown, (page, words)
        count += 1
    assert count > 30


@by_name
def test_python_imports_what_there_is(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("maskx_d2"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), text


def test_names_of_the_api_page():
    text = (REPOSITORY / "docs" / "API.md").read_text()
    count = 0
    for section in text.split("| elsewhere |")[0].split("| from `")[1:]:
        module = importlib.import_module(section.split("`")[0])
        for row in section.splitlines()[2:]:
            if not row.startswith("| `"):
                continue
            for name in re.findall(r"`(\w+)(?:\([^`]*\))?`", row.split(" | ")[0]):
                assert hasattr(module, name), (module, name)
                count += 1
    elsewhere = re.findall(r"`(maskx_d2(?:\.\w+)+)", text.split("| elsewhere |")[1])
    for path in elsewhere:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    assert count > 25 and len(elsewhere) >= 5


def test_every_page_is_in_the_index():
    index = (REPOSITORY / "docs" / "README.md").read_text()
    for page in PAGES[2:]:
        if page.name != "README.md":
            assert f"({page.name})" in index, page.name
    assert Path(PAGES[0]).read_text().count("docs/README.md") >= 1
