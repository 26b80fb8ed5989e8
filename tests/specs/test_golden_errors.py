"""Every broken file under ``tests/golden/errors`` has its message beside it."""

import os
from pathlib import Path

import pytest

from evomerge.errors import SpecError
from evomerge.specs.studies.study_file import read_study

GOLDEN = Path(__file__).parent.parent / "golden" / "errors"


@pytest.mark.parametrize(
    "file", sorted(GOLDEN.glob("*.yaml")), ids=lambda file: file.stem
)
def test_a_broken_study_gets_its_golden_message(file: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_study(file)
    said = str(caught.value).replace(str(GOLDEN), "FOLDER") + "\n"
    expected = file.with_suffix(".txt")
    if os.environ.get("EVOMERGE_REWRITE_GOLDEN"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")
