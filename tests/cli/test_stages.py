"""Studies in stages on the command line."""

import json
from pathlib import Path

import pytest
from support.study_files import staged_study, write_study


@pytest.fixture
def file(tmp_path: Path, models: Path) -> Path:
    return write_study(tmp_path / "two.yaml", staged_study(models))


def test_stages_are_checked_run_listed_exported_and_deleted(
    call, file: Path, tmp_path: Path
) -> None:
    checked = call("check", str(file))
    assert checked.code == 0, checked.err
    assert "two.ps" in checked.out
    assert "two.dfs" in checked.out

    ran = call("run", str(file), "--in-process")
    assert ran.code == 0, ran.err
    assert "two.ps: trial budget used; 6 trials" in ran.out
    assert "two.dfs: trial budget used; 6 trials" in ran.out

    status = call("status", "two")
    assert status.out.splitlines()[0] == "study two"
    ps, dfs = json.loads(call("status", "two", "--json").out)
    assert dfs["takes"] == {"merged": f"trial {ps['best'][0]['trial']} of ps"}
    assert f"merged (trial {ps['best'][0]['trial']} of ps)" in status.out
    assert json.loads(call("status", "two.dfs", "--json").out)["trials"] == 6
    listed = json.loads(call("studies", "--json").out)
    assert [row["name"] for row in listed] == ["two.ps", "two.dfs"]

    out = tmp_path / "out"
    exported = call("export", "two", "--no-score", str(out))
    assert exported.code == 0, exported.err
    assert "two.dfs" in (out / "README.md").read_text(encoding="utf-8")

    gone = call("delete", "two", "--yes")
    assert gone.code == 0, gone.err
    assert json.loads(call("studies", "--json").out) == []


def test_a_study_in_stages_is_gone_on_with_by_its_name(call, file: Path) -> None:
    assert call("run", str(file), "--in-process", "--json").code == 0
    refused = call("resume", "two", "--in-process", "--trials", "8")
    assert refused.code == 2
    assert "evomerge resume two.dfs --trials N" in refused.err
    more = call("resume", "two.dfs", "--in-process", "--trials", "8", "--json")
    (report,) = json.loads(more.out)
    assert (report["name"], report["trials"]) == ("two.dfs", 8)
    (report,) = json.loads(call("resume", "two", "--in-process", "--json").out)
    assert report["trials"] == 8


def test_the_name_of_the_whole_stands_for_the_last_stage_that_has_begun(
    call, file: Path
) -> None:
    assert call("run", str(file), "--in-process").code == 0
    for words in (("front",), ("trials",), ("attempts",), ("show", "--trial", 1)):
        command, *more = words
        whole = call(command, "two", *more, "--json")
        stage = call(command, "two.dfs", *more, "--json")
        assert (whole.code, whole.out) == (0, stage.out)
        assert "this is two.dfs" in whole.err
        assert not stage.err
    said = call("front", "three")
    assert said.code == 2
    assert "'two.ps', 'two.dfs'" in said.err
