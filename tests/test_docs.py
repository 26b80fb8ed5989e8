"""What the documents promise is there."""

import re
from pathlib import Path

import pytest

from evomerge.cli.app import app
from evomerge.strategies.registry import KINDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TREE_LINE = re.compile(
    r"^(?P<indent> *)(?P<names>[\w./*-]+(?: [\w./*-]+)*?)(?:  +.*)?$"
)


@pytest.mark.parametrize("command", sorted(app.commands))
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert re.search(rf"\bevomerge {command}\b", README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", sorted(app.commands))
def test_the_readme_calls_no_option_that_a_command_does_not_have(command: str) -> None:
    known = {o for p in app.commands[command].params for o in p.opts}
    for line in re.findall(
        rf"^evomerge {command}\b(.*)$", README.read_text(encoding="utf-8"), re.MULTILINE
    ):
        used = set(re.findall(r"(?<=\s)--[a-z-]+", line.partition("#")[0]))
        assert used <= known, line


def tree() -> list[str]:
    """Every path of the annotated tree in the README."""
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(evomerge/\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks, "README.md has no annotated tree that begins with evomerge/"
    folders: list[tuple[int, str]] = []
    found = []
    for line in blocks[0].splitlines():
        match = TREE_LINE.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        if folders and indent > folders[-1][0] + 8:
            continue  # the annotation of the line above goes on
        while folders and folders[-1][0] >= indent:
            folders.pop()
        for name in match["names"].split():
            found.append("".join(folder for _, folder in folders) + name)
        if found[-1].endswith("/"):
            folders.append((indent, match["names"].split()[-1]))
    return found


def test_every_file_of_the_readmes_tree_exists() -> None:
    names = tree()
    assert len(names) > 10
    missing = [name for name in names if not list(ROOT.glob(name.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize(
    "page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_link_between_documents_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_every_option_of_every_strategy_is_documented_with_its_help() -> None:
    page = (ROOT / "docs" / "study-files.md").read_text()
    rows = [
        f"| {name} | `{option.name}` |"
        for name, kind in KINDS.items()
        for option in kind.options
    ]
    assert rows
    assert [row for row in rows if row not in page] == []
    helps = [option.help for kind in KINDS.values() for option in kind.options]
    assert [text for text in helps if text not in page] == []
