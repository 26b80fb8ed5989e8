"""``docs/models.md`` lists what the architecture table proves."""

from pathlib import Path

from support.by_hand import METHODS

from evomerge.testing.families import FAMILIES, STRANGERS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


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
