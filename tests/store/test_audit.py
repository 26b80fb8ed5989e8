"""Every kind of hand edit that breaks a promise is found, and named."""

import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from support.postgres import make_database
from support.searched import by_hand, connected

from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.store.tables import rows
from evomerge.testing.store_samples import CONFIG, ELSEWHERE, candidates

FIRST_BLOCK = "id = (SELECT min(id) FROM em_outcome_block)"


def faults_of(url: str) -> list[str]:
    store = open_store(url)
    try:
        return [f"{fault.where}: {fault.what}" for fault in store.check()]
    finally:
        store.close()


def test_what_a_search_leaves_keeps_every_promise(searched_url: str) -> None:
    assert faults_of(searched_url) == []


def test_progress_is_told_and_nothing_is_changed(searched_url: str) -> None:
    store = open_store(searched_url)
    before = store.history(1), store.attempts(1), store.overview()
    told: list[str] = []
    store.check(told.append)
    assert "study small" in told
    assert "recipe 0" in told
    assert (store.history(1), store.attempts(1), store.overview()) == before
    store.close()


def recipe_of(number: int) -> str:
    return f"(SELECT recipe_digest FROM em_trial WHERE number = {number})"


def trial(changes: str, number: int = 0) -> str:
    return f"UPDATE em_trial SET {changes} WHERE number = {number}"


def tried(changes: str, number: int = 0, attempt: int = 1) -> str:
    return (
        f"UPDATE em_attempt SET {changes} WHERE trial = {number} "
        f"AND attempt = {attempt}"
    )


def block(changes: str) -> str:
    return f"UPDATE em_outcome_block SET {changes} WHERE {FIRST_BLOCK}"


# What is done by hand, and a pattern for each fault that must be told of it.
EDITS: dict[str, tuple[list[str], list[str]]] = {
    # Trials.
    "no scores": (
        [trial("scores = NULL")],
        ["trial 0: is scored with scores None"],
    ),
    "scores without being scored": (
        [trial("scores = '{}'", 3)],
        ["trial 3: is failed with scores {}"],
    ),
    "scored with a failure": (
        [trial("cause = 'engine', blame = 'machine', message = 'x'")],
        ["trial 0: is scored with a failure"],
    ),
    "failed without a cause": (
        [trial("cause = NULL, blame = NULL, message = NULL", 3)],
        ["trial 3: is failed, but not by the candidate's fault: None"],
    ),
    "failed by a machine": (
        [trial("blame = 'machine'", 3)],
        ["trial 3: is failed, but not by the candidate's fault"],
    ),
    "quarantined by the candidate": (
        [trial("state = 'quarantined'", 3)],
        [
            "trial 3: is quarantined, but not by a machine's fault",
            "trial 3: is quarantined, but its attempts ended failed",
        ],
    ),
    "reused but failed": (
        [trial("reused = (1 = 1)", 3)],
        [
            "trial 3: is failed, but marked as reused",
            "trial 3: is failed, but its attempts ended failed",
        ],
    ),
    "reused but scored by a worker": (
        [trial("reused = (1 = 1)")],
        ["trial 0: is scored, but its attempts ended scored"],
    ),
    "pending in an earlier generation": (
        [trial("state = 'pending', scores = NULL")],
        [
            "trial 0: is pending, but generation 2 came after its own",
            "trial 0: is pending, but its attempts ended scored",
        ],
    ),
    "running in a study that nobody holds": (
        [
            trial("state = 'running', scores = NULL", 8),
            tried('ended = NULL, "end" = NULL', 8),
        ],
        ["trial 8: is running, but nobody holds the study"],
    ),
    "a state that there is not": (
        [trial("state = 'resting'")],
        ["trial 0: cannot be read: 'resting' is not a valid TrialState"],
    ),
    "scores that are no JSON": (
        [trial("scores = 'many'")],
        ["trial 0: cannot be read: A trial's scores", "trial 0: cannot be read: Sco"],
    ),
    "a point that is no JSON": (
        [trial("point = '{'", 4)],
        ["trial 4: cannot be read: A trial's point"],
    ),
    "a cause without its blame": (
        [trial("blame = NULL", 3)],
        ["trial 3: cannot be read: None is not a valid Blame"],
    ),
    # Attempts.
    "an attempt too few": (
        [
            "DELETE FROM em_part WHERE trial = 1 AND attempt = 2",
            "DELETE FROM em_attempt WHERE trial = 1 AND attempt = 2",
        ],
        [r"trial 1: had 3 attempts, \[1, 3\] are recorded"],
    ),
    "an attempt too many": (
        [trial("attempt = 2", 1)],
        [r"trial 1: had 2 attempts, \[1, 2, 3\] are recorded"],
    ),
    "no attempt at all": (
        [
            "DELETE FROM em_part WHERE trial = 0",
            "DELETE FROM em_attempt WHERE trial = 0",
            trial("attempt = 0"),
        ],
        ["trial 0: is scored without an attempt"],
    ),
    "an attempt that never ended": (
        [tried("ended = NULL")],
        [r"trial 0: is scored, but attempts \[1\] are open"],
    ),
    "an attempt after a final one": (
        [tried("\"end\" = 'scored'", 1, 1), trial("faults = 1", 1)],
        ["trial 1: went on after a final attempt: scored, fault, scored"],
    ),
    "an end that is not the trial's": (
        [tried("\"end\" = 'interrupted'")],
        ["trial 0: is scored, but its attempts ended interrupted"],
    ),
    "an end that there is not": (
        [tried("\"end\" = 'bored'")],
        [
            "trial 0, attempt 1: cannot be read: 'bored' is not a valid AttemptEnd",
            r"trial 0: had 1 attempts, \[\] are recorded",
        ],
    ),
    "faults miscounted": (
        [trial("faults = 1", 1)],
        ["trial 1: counts 1 faults, its attempts 2"],
    ),
    # Parts.
    "a part missing": (
        ["UPDATE em_part SET part = 2 WHERE trial = 4"],
        [r"trial 4, attempt 1: has parts \[2\], not 1, 2, 3"],
    ),
    "a part that never ended": (
        ['UPDATE em_part SET ended = NULL, "end" = NULL WHERE trial = 4'],
        [r"trial 4, attempt 1: is over, but its parts \[1\] are open"],
    ),
    "a part that did not fail": (
        ["UPDATE em_part SET \"end\" = 'scored' WHERE trial = 3"],
        ["trial 3, attempt 1: ended as failed, but no part of it did"],
    ),
    "a block handed out twice": (
        ['UPDATE em_part SET blocks = \'[["x",0],["x",0]]\' WHERE trial = 0'],
        ["trial 0, attempt 1: hands 1 blocks out twice"],
    ),
    "blocks that nobody was handed": (
        ["UPDATE em_part SET blocks = '[[\"x\",0]]' WHERE trial = 4"],
        ["recipe .*: 20 items are recorded, its parts hold 5"],
    ),
    "a block that there is not": (
        ["UPDATE em_part SET blocks = '[[\"x\",7]]' WHERE trial = 0"],
        ["recipe .*: parts hold 1 blocks that no task has"],
    ),
    "blocks that are no JSON": (
        ["UPDATE em_part SET blocks = '[[\"x\"]]' WHERE trial = 0"],
        ["trial 0, attempt 1, part 1: cannot be read"],
    ),
    # Studies and generations.
    "items miscounted": (
        ["UPDATE em_study SET n_items = n_items + 1"],
        ["study 'small': counts 121 items, its blocks hold 120"],
    ),
    "a block charged to nobody": (
        ["UPDATE em_outcome_block SET charged_to = 0 WHERE charged_to = 1"],
        ["study 'small': counts 120 items, its blocks hold 0"],
    ),
    "a configuration that is no JSON": (
        ["UPDATE em_study SET config = 'none'"],
        ["study 'small': cannot be read: A study's configuration"],
    ),
    "a memory that is no JSON": (
        ["UPDATE em_generation SET memory = '[' WHERE number = 1"],
        ["study 'small', generation 1: cannot be read: A strategy's memory"],
    ),
    "a generation larger than its trials": (
        ["UPDATE em_generation SET size = 5 WHERE number = 2"],
        ["study 'small': 10 trials are not the 11 that its generations hold"],
    ),
    "a generation larger than its trials, beyond all bounds": (
        ["UPDATE em_generation SET size = 2000000000 WHERE number = 2"],
        ["study 'small': 10 trials are not the 2000000006 that its generations hold"],
    ),
    "a generation missing": (
        ["DELETE FROM em_generation WHERE number = 1"],
        [
            r"study 'small': generations are \[0, 2\], not 0, 1, 2",
            "study 'small': 10 trials are not the 6",
        ],
    ),
    "a trial missing": (
        [
            "DELETE FROM em_part WHERE trial = 3",
            "DELETE FROM em_attempt WHERE trial = 3",
            "DELETE FROM em_trial WHERE number = 3",
        ],
        [
            "study 'small': 9 trials are not the 10",
            "study 'small': trials are not numbered from 0 on without a gap",
            "recipe .*: belongs to no trial",
        ],
    ),
    "tasks missing": (
        ["DELETE FROM em_task"],
        [f"trial {n}: is scored, but the study has no tasks" for n in (0, 9)],
    ),
    "tasks that cannot be read": (
        ["UPDATE em_task SET metrics = 'acc'"],
        ["study 'small': cannot be read: Metric names", "trial 0: is scored, but"],
    ),
    # Recipes, protocols and manifests.
    "a recipe that cannot be read": (
        [
            "UPDATE em_recipe SET body = substr(body, 1, 20) "
            f"WHERE digest = {recipe_of(0)}"
        ],
        ["recipe .*: cannot be read: A recipe in the database"],
    ),
    "another recipe's content": (
        [
            f"UPDATE em_recipe SET body = (SELECT body FROM em_recipe WHERE digest = "
            f"{recipe_of(1)}) WHERE digest = {recipe_of(0)}"
        ],
        ["recipe .*: has another content than its name says"],
    ),
    "another trial's recipe": (
        [trial(f"recipe_digest = {recipe_of(4)}", 5)],
        [
            "recipe .*: belongs to no trial",
            "trial 5: has scores that are not the averages",
            "recipe .*: 20 items are recorded, its parts hold 0",
        ],
    ),
    "a protocol with other settings": (
        ["UPDATE em_protocol SET settings = '{}'"],
        ["protocol .*: has another content", "trial 0: is scored, but 20 outcomes"],
    ),
    "a protocol missing": (
        [block("protocol_digest = 'none'")],
        [
            "outcome block 1 of recipe .*: was made by no protocol",
            "trial 0: is scored, but 5 outcomes are not there",
        ],
    ),
    "a manifest that cannot be read": (
        ["UPDATE em_manifest SET body = substr(body, 1, 20)"],
        ["study 'small': cannot be read: A manifest", "manifest .*: cannot be read"],
    ),
    # Outcomes.
    "outcomes missing": (
        [f"DELETE FROM em_outcome_block WHERE {FIRST_BLOCK}"],
        ["trial 0: is scored, but 5 outcomes are not there"],
    ),
    "outcomes of nobody": (
        [block("recipe_digest = 'aaaa'")],
        [
            "outcomes of recipe aaaa: belong to no recipe",
            "trial 0: is scored, but 5 outcomes are not there",
        ],
    ),
    "outcomes of nobody, at the end": (
        [block("recipe_digest = 'zzzz'")],
        ["outcomes of recipe zzzz: belong to no recipe", "trial 0: is scored, but 5"],
    ),
    "outcomes that cannot be read": (
        [block("body = substr(body, 1, 20)")],
        ["outcome block 1 of .*: cannot be read: A block", "trial 0: is scored, but"],
    ),
    "outcomes under another name": (
        [block("items_digest = 'x'")],
        ["outcome block 1 of recipe .*: holds other items than its name says"],
    ),
    "outcomes miscounted": (
        [block("n_items = 4")],
        ["outcome block 1 of recipe .*: holds other items than its name says"],
    ),
    "outcomes twice": (
        [
            "INSERT INTO em_outcome_block (id, recipe_digest, protocol_digest, "
            "items_digest, n_items, means, body, created, charged_to) SELECT 999, "
            "recipe_digest, protocol_digest, 'x', n_items, means, body, created, 0 "
            f"FROM em_outcome_block WHERE {FIRST_BLOCK}"
        ],
        [
            "outcome block 999 of recipe .*: holds 5 items that another block holds",
            "outcome block 999 of recipe .*: holds other items than its name says",
        ],
    ),
    "means of others": (
        [block("means = '{\"acc\":2.0}'")],
        ["outcome block 1 of recipe .*: has means that are not those of its outcomes"],
    ),
    "means that are no JSON": (
        [block("means = 'half'")],
        ["outcome block 1 of recipe .*: cannot be read", "trial 0: is scored, but 5"],
    ),
    "a score": (
        [trial("scores = replace(scores, '\"x/acc\":0.', '\"x/acc\":1.')")],
        ["trial 0: has scores that are not the averages of its outcomes"],
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_by_hand_is_found_in_a_file(
    searched_file: Path, tmp_path: Path, edit: str
) -> None:
    shutil.copy(searched_file, tmp_path / "x.db")
    edit_and_check(f"sqlite:///{tmp_path}/x.db", edit)


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_by_hand_is_found_in_postgresql(
    postgres_admin: str, searched_template: str, edit: str
) -> None:
    edit_and_check(make_database(postgres_admin, searched_template), edit)


def edit_and_check(searched_url: str, edit: str) -> None:
    statements, patterns = EDITS[edit]
    by_hand(searched_url, *statements)
    found = faults_of(searched_url)
    for pattern in patterns:
        assert [each for each in found if re.search(pattern, each)], found
    told = [each for each in found if any(re.search(p, each) for p in patterns)]
    if edit not in CASCADES:
        assert told == found
        assert len(found) == len(patterns)


CASCADES = {
    "tasks missing",
    "tasks that cannot be read",
    "a protocol with other settings",
    "a manifest that cannot be read",
}
"""One edit spoils all that stands on it."""


def test_an_outcome_edited_by_hand_is_found_in_block_and_score(
    searched_url: str,
) -> None:
    with connected(searched_url) as connection:
        query = f"SELECT body FROM em_outcome_block WHERE {FIRST_BLOCK}"
        outcomes = rows.outcomes_of(bytes(connection.exec_driver_sql(query).scalar()))
        changed = [each.to_json() for each in outcomes]
        text = json.dumps(changed[0]).replace('"acc": ', '"acc": 3')
        body = rows.pack("Outcomes", [json.loads(text), *changed[1:]]).hex()
        is_sqlite = connection.dialect.name == "sqlite"
        literal = f"x'{body}'" if is_sqlite else f"'\\x{body}'"
        connection.exec_driver_sql(block(f"body = {literal}"))
    first, second = faults_of(searched_url)
    assert "has means that are not those of its outcomes" in first
    assert second.startswith("study 'small', trial 0: has scores that are not")


def test_rows_that_name_nothing_are_found_in_a_file(
    searched_file: Path, tmp_path: Path
) -> None:
    """Programs other than ours do not look after references in SQLite."""
    shutil.copy(searched_file, tmp_path / "x.db")
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("UPDATE em_trial SET study_id = 7 WHERE number = 9")
        connection.execute("DELETE FROM em_protocol")
    connection.close()
    found = faults_of(f"sqlite:///{tmp_path}/x.db")
    assert any(
        re.search(r"table em_trial: row \d+ names no row of em_st", f) for f in found
    )
    assert any("table em_task: row 1 names no row of em_protocol" in f for f in found)
    assert any("was made by no protocol that is recorded" in f for f in found)


def test_a_damaged_file_is_found(searched_file: Path, tmp_path: Path) -> None:
    shutil.copy(searched_file, tmp_path / "x.db")
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
            "WHERE name = 'ix_em_event_study_id_kind') "
            "WHERE name = 'ix_em_trial_recipe_digest'"
        )
    connection.close()
    found = faults_of(f"sqlite:///{tmp_path}/x.db")
    assert found[0].startswith("the file: SQLite found it damaged")


def test_a_study_that_is_being_run_keeps_every_promise(searched_url: str) -> None:
    store = open_store(searched_url)
    study = store.create_study("more", CONFIG, {}, 1)
    lease = store.lease(study.id, ELSEWHERE, 60)
    store.add_generation(lease, 0, candidates(0, 2), {}, None)
    store.start_attempt(lease, 1, "w")
    assert list(store.check()) == []
    store.close()


def test_a_study_given_another_configuration_leaves_nothing_behind(
    any_url: str,
) -> None:
    store = open_store(any_url)
    study = store.create_study("s", CONFIG, {}, 1)
    lease = store.lease(study.id, this_process(), 60)
    store.add_generation(lease, 0, candidates(0, 2), {}, None)
    store.restart(lease, {"other": 1}, {}, 2)
    assert list(store.check()) == []
    store.close()
