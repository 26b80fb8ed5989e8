"""Killed at any moment, the store loses nothing that was recorded.

A writer process runs a small study and notes through a pipe, after each call
returned, what the store promised to keep. It is killed with SIGKILL at a chosen SQL
statement or commit; then the database must hold everything noted and nothing half
done, and the next process must be able to go on at once.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from support.steps import step_at_prepared

from evomerge.core.trial import TrialState
from evomerge.errors import StudyLockedError
from evomerge.store.base import AttemptEnd, PartBegun, PartEnded, Report
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.store_samples import (
    BLOCK_SIZE,
    CONFIG,
    N_BLOCKS,
    answers,
    candidates,
    scored,
    search_block,
    task,
)

N_GENERATIONS = 2
SIZE = 2
N_ITEMS = N_BLOCKS * BLOCK_SIZE


def run_study(url, note):
    """Do what a coordinator does, going on where an earlier one was killed."""
    store = open_store(url)
    study = next(iter(store.studies()), None)
    if study is None:
        study = store.create_study("s", CONFIG, {}, 1)
    note("study")
    lease = store.lease(study.id, this_process(), 3600)
    store.record_tasks(lease, [task()])
    note("tasks")
    store.recover(lease)
    for number in range(1 + N_GENERATIONS):
        if number >= len(store.generations(study.id)):
            size = SIZE if number else 0
            store.add_generation(lease, number, candidates(number, size), {}, None)
        note("generation", number)
        for trial in store.trials(study.id, number):
            if trial.state is not TrialState.SCORED:
                run_trial(store, lease, trial.number, note)
    store.set_finished(lease, "budget")
    store.release(lease)


def run_trial(store, lease, number, note):
    attempt = store.start_attempt(lease, number, "w")
    note("attempt", number, attempt)
    every = [search_block(index) for index in range(N_BLOCKS)]
    for n, blocks in enumerate((every[:1], every[1:])):
        found = {block: answers(block) for block in blocks}
        begun = PartBegun(n + 2, "w", tuple(blocks))
        ended = [PartEnded(n + 1, AttemptEnd.SCORED)]
        store.record(lease, number, attempt, Report(found, ended, begun))
        for block in blocks:
            note("block", number, block.index)
    store.end_attempt(lease, number, attempt, scored())
    note("scored", number)


def write(url, kill_at=0):
    """Run the study in a forked process that kills itself at a step, if it is not 0.

    Returns:
        Its exit status (minus the signal), and what it was promised.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            n_steps = 0

            def step(*_):
                nonlocal n_steps
                n_steps += 1
                if n_steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            def note(*what):
                os.write(write_end, " ".join(map(str, what)).encode() + b"\n")

            for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
                sa.event.listen(sa.Engine, name, step)
            step_at_prepared(step)
            run_study(url, note)
            note("steps", n_steps)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        promised = [line.split() for line in pipe]
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), promised


def check_kept(store, promised):
    """Everything promised is there; everything there is whole."""
    if ["study"] not in promised:
        return
    study = store.study("s")
    if ["tasks"] in promised:
        assert store.tasks(study.id) == [task()]
    generations = {str(generation.number) for generation in store.generations(study.id)}
    trials = store.trials(study.id)
    check_whole(store, study.id)
    for kind, *facts in promised:
        if kind == "generation":
            assert facts[0] in generations
        elif kind == "attempt":
            assert trials[int(facts[0])].attempt >= int(facts[1])
        elif kind == "block":
            found = outcomes(store, trials[int(facts[0])])
            assert found.keys() >= {
                o.item for o in answers(search_block(int(facts[1])))
            }
        elif kind == "scored":
            assert trials[int(facts[0])].state is TrialState.SCORED


def check_whole(store, study_id):
    trials = store.trials(study_id)
    for generation in store.generations(study_id):
        members = [t for t in trials if t.candidate.generation == generation.number]
        assert [t.candidate for t in members] == candidates(
            generation.number, generation.size
        )
    assert [trial.number for trial in trials] == list(range(len(trials)))
    n_known = 0
    for trial in trials:
        known = outcomes(store, trial)
        assert len(known) % BLOCK_SIZE == 0
        n_known += len(known)
        if trial.state is TrialState.SCORED:
            assert len(known) == N_ITEMS
            assert trial.scores == {"t/acc": 0.1 + 0.2}
    assert store.usage(study_id).items == n_known  # none twice, none forgotten


def outcomes(store, trial):
    return store.outcomes(trial.candidate.recipe.digest, task().protocol.digest)


def check_complete(store):
    study = store.study("s")
    assert study.finished == "budget"
    trials = store.trials(study.id)
    assert [trial.state for trial in trials] == [TrialState.SCORED] * 2 * SIZE
    assert store.usage(study.id).items == 2 * SIZE * N_ITEMS
    check_whole(store, study.id)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("stride", [13, pytest.param(5, marks=pytest.mark.long)])
def test_killed_at_every_few_steps_nothing_is_lost_and_the_next_goes_on(
    new_url, stride
):
    status, promised = write(new_url())
    assert status == 0
    kind, n_steps = promised[-1]
    assert kind == "steps"
    n_steps = int(n_steps)
    assert n_steps > 200
    # The stride meets the steps of a transaction at every place in turn.
    for i, kill_at in enumerate(range(1, n_steps, stride)):
        url = new_url()
        status, promised = write(url, kill_at)
        assert status == -signal.SIGKILL
        store = open_store(url)
        check_kept(store, promised)
        store.close()
        if i % 5 == 0:
            status, _ = write(url)
            assert status == 0, f"killed at {kill_at}, it did not go on"
            check_complete(open_store(url))


def test_killed_again_and_again_it_still_ends_complete(any_url):
    url = any_url
    n_kills = 0
    for kill_at in (9, 31, 90, 60, 75, 47, 0):
        status, promised = write(url, kill_at)
        store = open_store(url)
        check_kept(store, promised)
        store.close()
        n_kills += status == -signal.SIGKILL
    assert status == 0
    assert n_kills == 6
    check_complete(open_store(url))


_HOLDER = """if True:
    import sys
    from evomerge.errors import StudyLockedError
    from evomerge.store.owner import this_process
    from evomerge.store.sql import open_store
    store = open_store(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lease = store.lease(1, this_process(), 3600)
        print(lease.epoch, flush=True)
    except StudyLockedError as error:
        print("locked", flush=True)
    sys.stdin.readline()
"""


def start_holder(url):
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say_go(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.timeout(180)
def test_of_several_processes_one_gets_the_lease_and_its_death_frees_it(any_url):
    url = any_url
    store = open_store(url)
    study = store.create_study("s", {}, {}, 1)
    holders = [start_holder(url) for _ in range(3)]
    for holder in holders:
        assert holder.stdout.readline() == "ready\n"
    for holder in holders:
        say_go(holder)
    answers_ = [holder.stdout.readline().strip() for holder in holders]
    assert sorted(answers_) == ["1", "locked", "locked"]
    with pytest.raises(StudyLockedError):
        store.lease(study.id, this_process(), 60)
    winner = holders[answers_.index("1")]
    os.kill(winner.pid, signal.SIGKILL)
    winner.wait()
    assert store.lease(study.id, this_process(), 60).epoch == 2
    for holder in holders:
        if holder is not winner:
            say_go(holder)
        holder.wait()


_OPENER = """if True:
    import json, sys
    from evomerge.core.scoring_protocol import Outcome
    from evomerge.store.owner import this_process
    from evomerge.store.sql import open_store
    from evomerge.testing.store_samples import candidates
    url, me = sys.argv[1:]
    sys.stdin.readline()
    store = open_store(url)
    lease = store.lease(store.create_study(me, {}, {}, 1).id, this_process(), 60)
    shared = store.add_generation(lease, 0, candidates(0, 50), {}, None)
    r = shared[0].candidate.recipe.digest
    for i in range(20):
        store.add_outcomes(r, "p", [Outcome(f"{me}-{i}", {"acc": 1.0})])
        store.add_outcomes(r, "q", [Outcome(f"{i}", {"acc": float(me)})])
    found = store.outcomes(r, "q")
    print(json.dumps({item: o.metrics["acc"] for item, o in found.items()}))
"""


@pytest.mark.timeout(180)
def test_processes_may_make_and_fill_one_database_together(empty_url):
    url = empty_url
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPENER, url, str(me)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(3)
    ]
    for process in processes:
        say_go(process)
    views = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    store = open_store(url)
    r = candidates(0, 50)[0].recipe.digest
    assert len(store.outcomes(r, "p")) == 60
    # Whoever came first stands, for everybody.
    final = {item: o.metrics["acc"] for item, o in store.outcomes(r, "q").items()}
    assert views == [final] * 3
