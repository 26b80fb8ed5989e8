"""Housekeeping from the command line: list, delete, tell attempts, upgrade, check."""

import gzip
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.searched import EVENTFUL, ask, by_hand, contents, search_small

from evomerge.cli import databases
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.store_samples import ELSEWHERE

GOLDEN = Path(__file__).parents[1] / "golden" / "databases"
MAIN = "from evomerge.cli.app import main; main()"


@pytest.fixture
def searched(searched_file: Path, here: Path) -> str:
    """A file of one's own in which ``small`` has been searched."""
    shutil.copy(searched_file, here / "evomerge.db")
    return f"sqlite:///{here}/evomerge.db"


def test_a_database_without_studies_says_how_to_begin(call, any_url: str) -> None:
    open_store(any_url).close()
    ended = call("studies", "--db", any_url)
    assert (ended.code, ended.err) == (0, "")
    assert "no study yet" in ended.out
    assert "evomerge run" in ended.out
    assert json.loads(call("studies", "--json", "--db", any_url).out) == []


def test_studies_tells_of_each_who_searches_it_or_why_it_ended(
    call, searched_url: str
) -> None:
    store = open_store(searched_url)
    store.create_study("waiting", {}, {"budget": {"trials": 7}}, 1)
    running = store.create_study("running", {}, {}, 1)
    store.lease(running.id, ELSEWHERE, 60)
    store.close()
    title, *lines = call("studies", "--db", searched_url).out.splitlines()
    assert title.split() == [
        *("study", "state", "created", "trials", "failed", "items", "time")
    ]
    small, waiting, searching = (" ".join(line.split()) for line in lines)
    assert small.startswith("small trial budget used 20")
    assert small.partition(" 8 of 8 ")[2].startswith("2 120 0:00:0")
    assert waiting.startswith("waiting stopped 20")
    assert waiting.endswith(" 0 of 7 0 0 0:00:00")
    assert searching.startswith("running searching: process 1 on another-host 20")
    rows = json.loads(call("studies", "--json", "--db", searched_url).out)
    assert [row["name"] for row in rows] == ["small", "waiting", "running"]
    assert (rows[0]["counts"]["scored"], rows[0]["counts"]["failed"]) == (8, 2)
    assert (rows[0]["trials"], rows[0]["allowed"], rows[0]["items"]) == (8, 8, 120)


def test_delete_removes_a_study_and_says_what_went(call, searched: str) -> None:
    before = json.loads(
        call("db", "check", "--json", "--db", searched).out  # counts everything
    )
    ended = call("delete", "small", "--yes", "--json", "--db", searched)
    assert ended.code == 0
    gone = json.loads(ended.out)
    assert (gone["name"], gone["trials"], gone["recipes"]) == ("small", 10, 10)
    assert gone["blocks"] == before["blocks"] == 32
    assert "no study yet" in call("studies", "--db", searched).out
    after = json.loads(call("db", "check", "--json", "--db", searched).out)
    assert after == {"studies": 0, "trials": 0, "blocks": 0, "faults": []}


def test_delete_leaves_the_outcomes_that_another_study_reuses(
    call, searched_url: str, here: Path
) -> None:
    search_small(searched_url, here, EVENTFUL, "twin")
    twin = contents(searched_url, "twin")
    assert twin["items"] == 0  # all reused
    ended = call("delete", "small", "--yes", "--db", searched_url)
    assert "10 trials, 0 recipes and 0 blocks of outcomes" in ended.out
    assert contents(searched_url, "twin") == twin
    assert call("db", "check", "--db", searched_url).code == 0


def test_delete_asks_nobody_where_nobody_is_and_keeps_the_study(
    call, searched: str
) -> None:
    for words in ((), ("--json",)):
        ended = call("delete", "small", "--db", searched, *words)
        assert ended.code == 2
        assert "10 trials, 10 recipes and 32 blocks of outcomes" in ended.err
        assert "--yes" in ended.err
    assert "small" in call("studies", "--db", searched).out


def at_a_terminal(answer: str, *words: str) -> tuple[int, str]:
    """Run a command whose input is a terminal, and answer its question."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.write(master, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=50)
    os.close(master)
    os.close(slave)
    return process.returncode, out


@pytest.mark.slow
def test_delete_asks_at_a_terminal_and_does_as_told(call, searched: str) -> None:
    code, out = at_a_terminal("n", "delete", "small", "--db", searched)
    assert code == 130
    assert "Delete study 'small' with 10 trials, 10 recipes and 32 blocks" in out
    assert "small" in call("studies", "--db", searched).out
    code, out = at_a_terminal("y", "delete", "small", "--db", searched)
    assert code == 0
    assert "Deleted study 'small'" in out
    assert "no study yet" in call("studies", "--db", searched).out


def test_delete_refuses_a_study_that_is_being_run(call, searched: str) -> None:
    store = open_store(searched)
    lease = store.lease(store.study("small").id, ELSEWHERE, 60)
    ended = call("delete", "small", "--yes", "--db", searched)
    assert ended.code == 75
    assert "process 1 on another-host" in ended.err
    assert len(store.trials(lease.study_id)) == 10
    store.renew(lease, 1.0)  # still the holder's
    store.close()


@pytest.mark.parametrize("words", [("delete", "--yes"), ("attempts",)])
def test_a_name_that_is_unknown_is_told_with_those_there_are(
    call, searched: str, words
) -> None:
    ended = call(words[0], "smal", *words[1:], "--db", searched)
    assert ended.code == 2
    assert "Did you mean 'small'?" in ended.err


def test_check_tells_size_and_that_every_promise_holds(call, searched: str) -> None:
    ended = call("db", "check", "--db", searched)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "1 study, 10 trials, 32 blocks: every promise holds\n"


def test_check_lists_broken_promises_and_ends_with_code_3(call, searched: str) -> None:
    by_hand(searched, "UPDATE em_study SET n_items = 7")
    ended = call("db", "check", "--db", searched)
    assert ended.code == 3
    assert ended.out.splitlines() == [
        "study 'small': counts 7 items, its blocks hold 120",
        "1 study, 10 trials, 32 blocks: 1 broken promise",
    ]
    ended = call("db", "check", "--json", "--db", searched)
    assert ended.code == 3
    assert json.loads(ended.out)["faults"] == [
        {"where": "study 'small'", "what": "counts 7 items, its blocks hold 120"}
    ]


def test_check_shows_some_broken_promises_and_counts_the_rest(
    call, searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(searched, "UPDATE em_trial SET faults = 5")
    monkeypatch.setattr(databases, "_MOST_SHOWN", 3)
    ended = call("db", "check")
    assert ended.code == 3
    assert len(ended.out.splitlines()) == 5
    assert "... and 7 more; --json lists all." in ended.out
    assert len(json.loads(call("db", "check", "--json").out)["faults"]) == 10


def test_check_may_be_run_while_a_study_is_searched(call, searched: str) -> None:
    store = open_store(searched)
    store.lease(store.study("small").id, this_process(), 60)
    assert call("db", "check", "--db", searched).code == 0
    store.close()


def test_upgrade_tells_versions_and_copy(call, here: Path) -> None:
    packed = (GOLDEN / "version-1-sqlite.db.gz").read_bytes()
    old = gzip.decompress(packed)
    (here / "evomerge.db").write_bytes(old)
    refused = call("studies")
    assert refused.code == 2
    assert "evomerge db upgrade" in refused.err
    ended = call("db", "upgrade")
    assert ended.code == 0
    assert ended.out == (
        "Schema 0001 before, 0006 now.\n"
        "The database as it was: evomerge.db.before-0006\n"
    )
    assert (here / "evomerge.db.before-0006").read_bytes()[:16] == old[:16]
    assert call("db", "upgrade").out == "The database has schema 0006 already.\n"
    assert json.loads(call("db", "upgrade", "--json").out) == {
        "before": "0006",
        "after": "0006",
        "copy": None,
    }
    assert call("db", "check").code == 0
    assert "small" in call("studies").out


def test_upgrade_as_json_names_the_copy(call, here: Path) -> None:
    packed = (GOLDEN / "version-1-sqlite.db.gz").read_bytes()
    (here / "evomerge.db").write_bytes(gzip.decompress(packed))
    assert json.loads(call("db", "upgrade", "--json").out) == {
        "before": "0001",
        "after": "0006",
        "copy": "evomerge.db.before-0006",
    }


def test_attempts_tells_how_each_ended_and_why(call, searched_url: str) -> None:
    rows = json.loads(call("attempts", "small", "--json", "--db", searched_url).out)
    ends = [row["end"] for row in rows]
    assert {"scored", "failed", "fault"} <= set(ends)
    for row in rows:
        assert row["began"] <= row["ended"]
        assert (row["failure"] is None) == (row["end"] == "scored")
        assert [part["end"] for part in row["parts"]] == [row["end"]]
        assert row["parts"][0]["worker"] == row["worker"]
        assert set(row["parts"][0]["blocks"]) <= {"x/0", "x/1", "y/0", "y/1"}
    spoilt = next(row for row in rows if row["end"] == "fault")
    again = [row for row in rows if row["trial"] == spoilt["trial"]]
    assert [row["attempt"] for row in again] == list(range(1, len(again) + 1))
    assert len(again) > 1
    told = call(
        "attempts", "small", "--trial", spoilt["trial"], "--db", searched_url
    ).out
    assert len(told.splitlines()) == 2 + len(again)
    assert spoilt["failure"].partition("\n")[0] in told
    n = ask(searched_url, "SELECT count(*) FROM em_attempt")
    assert len(rows) == n


def test_attempts_at_a_trial_that_is_not_there_is_told(call, searched: str) -> None:
    ended = call("attempts", "small", "--trial", "99", "--db", searched)
    assert ended.code == 2
    assert "no trial 99; the study has 10" in ended.err


def test_no_database_is_made_by_housekeeping(call, here: Path) -> None:
    for words in (
        ("studies",),
        ("delete", "a", "--yes"),
        ("attempts", "a"),
        ("db", "check"),
        ("db", "upgrade"),
    ):
        ended = call(*words)
        assert ended.code == 2
        assert "there is no such file" in ended.err
    assert list(here.iterdir()) == []
