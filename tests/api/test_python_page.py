"""The page on Python: every block of it runs, in order, as it stands there."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.study_files import simulated_study, write_models

from evomerge import api
from evomerge.errors import EvomergeError, SpecError, StudyNotFoundError

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "demo" / "zoo").mkdir(parents=True)
    write_models(tmp_path / "demo" / "zoo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.timeout(180)
def test_the_page_runs_from_top_to_bottom(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    told = capsys.readouterr().out
    assert "12 trials" in told
    assert "differences" in told
    assert "models:" in told
    trials = names["trials"]
    assert len(trials) == len(names["study"].trials()) == 18 + 4
    best = names["best"]
    assert best["one"] == trials["one"].max()
    assert (here / "best" / "model.safetensors").is_file()
    assert (here / "best" / "README.md").is_file()
    drawn = ElementTree.parse(here / "front.svg").getroot()
    marks = drawn.findall("{*}circle")
    assert len(marks) == len(trials)
    filled = [mark for mark in marks if mark.get("class") == "best"]
    assert len(filled) == len(names["study"].front())


def test_all_mistakes_of_a_mapping_are_told_at_once_without_lines(here: Path) -> None:
    study = simulated_study(here / "demo" / "zoo", budget={"trails": 6}, sede=1)
    with pytest.raises(SpecError) as caught:
        api.run(study, in_process=True)
    said = [str(problem) for problem in caught.value.problems]
    assert {line.partition(": ")[0] for line in said} == {"study"}
    assert any("budget.trails" in line for line in said)
    assert any("sede" in line for line in said)


def test_paths_may_be_paths_and_what_is_not_there_is_said(here: Path) -> None:
    study = simulated_study(here, sources={"base": here / "demo" / "zoo" / "nobody"})
    with pytest.raises(SpecError, match="nobody"):
        api.run(study, in_process=True)
    made = api.run(simulated_study(here / "demo" / "zoo", name="mine"), in_process=True)
    assert made == api.load("mine")
    with pytest.raises(EvomergeError, match="best trial of 'scor'"):
        made.best("scor")
    with pytest.raises(StudyNotFoundError):
        api.load("yours")
