"""``docs/models.md`` lists what the architecture table proves."""

from pathlib import Path

from architectures.built import KINDS
from support.by_hand import METHODS

from evomerge.testing.families import FAMILIES, STRANGERS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_lists_every_architecture_of_transformers() -> None:
    text = PAGE.read_text().partition("<!-- families: begin -->")[2]
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    found = {(row[1].strip(), row[2].strip(" `")) for row in cells[2:]}
    for kind in KINDS.values():
        if kind.name in {name for name, _ in found}:
            listed = {family for name, family in found if name == kind.name}
            assert listed == set(kind.families)
    assert {"causal", "image-text"} <= {name for name, _ in found}
    assert not any(row[3].strip() == "wrong" for row in cells)


def test_the_page_lists_every_family_and_method_tested() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    heading = next(row for row in rows if row.startswith("| Family"))
    cells = [cell.strip() for cell in heading.strip("|").split("|")]
    assert cells == ["Family", *METHODS, "stack of two depths"]
    table = {row.split("|")[1].strip(): row for row in rows}
    for family in FAMILIES:
        assert table[f"`{family}`"].count("equal") == 5
    for family in STRANGERS:
        assert table[f"`{family}`"].count("equal") == 3
