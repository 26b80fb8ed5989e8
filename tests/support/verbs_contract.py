"""What everything that implements ``Verbs`` must do, as tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evomerge import __version__, api
from evomerge.api.plain import plain
from evomerge.client.values import to_json
from evomerge.client.verbs import EVENTS_PAGE, NewToken, NewUser, Verbs
from evomerge.errors import (
    ExportError,
    ForbiddenError,
    JobExistsError,
    JobNotFoundError,
    JobStateError,
    SpecError,
    StudyNotFoundError,
    TokenError,
    UserError,
    WorkerNotFoundError,
)
from evomerge.exit_codes import ExitCode
from evomerge.service.supervisor import LOG
from evomerge.store.owner import this_process
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import JobQueue
from evomerge.store.queue.values import Job, JobState, Role, Scope
from evomerge.store.sql import open_store
from evomerge.store.values import CrewMember


@dataclass(frozen=True)
class House:
    """Where the verbs are asked.

    Attributes:
        ask: Gives the verbs for ``ann``, ``bob`` or the admin ``root``, new each time.
        queue: Of the same database, for what supervisors do.
    """

    ask: Callable[[str], Verbs]
    queue: JobQueue
    url: str
    spool: Path

    def claimed(self, job: Job) -> Any:
        """Claim jobs until this one is claimed."""
        while (claim := self.queue.claim("test")) is not None:
            if claim.job.address == job.address:
                self.queue.started(claim)
                return claim
        raise AssertionError(f"{job.address} is not claimed")

    def end(self, job: Job, code: int) -> None:
        """Let a job's process run, and end with a code."""
        self.queue.ended(self.claimed(job), ProcessEnd(code, "it was so"))

    def say(self, job: Job, text: bytes) -> None:
        """Let a job's process say something."""
        folder = self.spool / job.user / job.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("ab") as log:
            log.write(text)


def study(**keys: Any) -> dict[str, bytes]:
    """Return the files of a study of one file."""
    return {"study.yaml": json.dumps({"name": "x", **keys}).encode()}


def same(job: Job) -> Any:
    """Return what is told of a job on both sides of a wire."""
    return to_json(job)


BAD_FILES: Mapping[str, Mapping[str, bytes]] = {
    "none": {},
    "no study": {"a.yaml": b""},
    "a way out": {"study.yaml": b"name: x", "../a": b""},
    "absolute": {"study.yaml": b"name: x", "/etc/a": b""},
    "no YAML": {"study.yaml": b"a: ["},
    "no mapping": {"study.yaml": b"- a"},
    "a name that is none": {"study.yaml": b"name: a/b"},
    "too large": {"study.yaml": b"name: x", "a": b"a" * (8 << 20)},
    "too many": {"study.yaml": b"name: x", **{str(n): b"" for n in range(201)}},
}


class VerbsContract:
    """Behaviour that all share; a test class inherits it and supplies ``house``."""

    @pytest.fixture
    def house(self) -> House:
        raise NotImplementedError

    @pytest.fixture
    def ann(self, house: House) -> Verbs:
        return house.ask("ann")

    @pytest.fixture
    def bob(self, house: House) -> Verbs:
        return house.ask("bob")

    @pytest.fixture
    def root(self, house: House) -> Verbs:
        return house.ask("root")

    @pytest.fixture
    def job(self, ann: Verbs) -> Job:
        return ann.submit(study())[0]

    # Who asks.

    def test_who_asks_is_told_with_the_version_that_answers(
        self, ann: Verbs, root: Verbs
    ) -> None:
        me = ann.me()
        assert (me.user, me.role, me.version) == ("ann", Role.USER, __version__)
        assert me.scopes == {Scope.READ, Scope.WRITE}
        assert root.me().role is Role.ADMIN

    # Submitting.

    def test_the_same_again_changes_nothing(self, ann: Verbs) -> None:
        first, is_new = ann.submit(study(), priority=2, place={"workers": 3})
        again, is_new_again = ann.submit(study(), priority=2, place={"workers": 3})
        assert (is_new, is_new_again) == (True, False)
        assert same(first) == same(again) == same(ann.job("x"))
        assert (first.address, first.study, first.state) == ("ann/x", "x", "queued")
        assert (first.priority, first.place) == (2, {"workers": 3})

    def test_a_job_may_have_another_name_than_its_study(self, ann: Verbs) -> None:
        assert ann.submit(study(), name="mine")[0].study == "x"
        assert ann.job("mine").name == "mine"

    def test_other_content_under_a_name_is_refused_with_the_difference(
        self, ann: Verbs, job: Job
    ) -> None:
        with pytest.raises(JobExistsError) as raised:
            ann.submit({**study(seed=3), "more.txt": b""}, priority=1)
        said = {problem.where: problem.message for problem in raised.value.problems}
        assert set(said) == {"study.yaml", "more.txt", "priority"}
        assert said["study.yaml"].startswith("line 1 is ")
        assert said["priority"] == "is 0 there, 1 here"

    def test_a_study_of_another_job_is_refused(self, bob: Verbs, job: Job) -> None:
        with pytest.raises(JobExistsError):
            bob.submit(study())

    @pytest.mark.parametrize("case", BAD_FILES)
    def test_files_that_are_no_study_are_refused(self, ann: Verbs, case: str) -> None:
        with pytest.raises(SpecError) as raised:
            ann.submit(BAD_FILES[case], name="x")
        assert raised.value.problems
        assert ann.jobs() == () or list(ann.jobs()) == []

    @pytest.mark.parametrize(
        "more",
        [
            {"name": "a b"},
            {"name": "a/b"},
            {"name": ".."},
            {"priority": 11},
            {"place": {"workers": 0}},
            {"place": {"where": "there"}},
        ],
    )
    def test_what_cannot_be_asked_is_refused(
        self, ann: Verbs, more: dict[str, Any]
    ) -> None:
        with pytest.raises(SpecError):
            ann.submit(study(), **more)

    def test_files_are_looked_at_without_being_queued(self, ann: Verbs) -> None:
        found = ann.check(study())
        assert found.study in ("x", None)  # what has no sources is hardly a study
        assert found.problems
        assert not ann.jobs()
        with pytest.raises(SpecError):
            ann.check({})

    # Listing.

    def test_jobs_are_listed_oldest_first_one_page_after_another(
        self, ann: Verbs
    ) -> None:
        for name in "cab":
            ann.submit(study(name=name))
        first = ann.jobs(limit=2)
        assert [job.name for job in first] == ["c", "a"]
        rest = ann.jobs(after=first[-1].address, limit=2)
        assert [job.name for job in rest] == ["b"]

    def test_jobs_are_chosen_by_state_and_by_what_they_are(
        self, ann: Verbs, root: Verbs
    ) -> None:
        for name, workers in (("a", 2), ("b", 4)):
            ann.submit(study(name=name), place={"workers": workers})
        ann.pause("b")
        assert [j.name for j in ann.jobs(states=[JobState.PAUSED])] == ["b"]
        assert [j.name for j in ann.jobs(filters={"place.workers": "2"})] == ["a"]
        assert [j.name for j in ann.jobs(filters={"study": "a", "user": "ann"})] == [
            "a"
        ]
        assert not ann.jobs(filters={"nothing": "a"})
        assert not ann.jobs(filters={"study": "a"}, states=[JobState.PAUSED])
        assert [j.name for j in root.jobs(user="ann")] == ["a", "b"]
        assert not root.jobs(user="bob")

    def test_everybody_sees_their_own_and_an_operator_all(
        self, ann: Verbs, bob: Verbs, root: Verbs
    ) -> None:
        ann.submit(study())
        bob.submit(study(name="y"))
        assert [j.address for j in ann.jobs()] == ["ann/x"]
        assert not ann.jobs(user="bob")
        assert {j.address for j in root.jobs()} == {"ann/x", "bob/y"}

    def test_what_is_anothers_is_not_there(self, bob: Verbs, job: Job) -> None:
        asked: list[Callable[[str], object]] = [
            *(bob.job, bob.cancel, bob.pause, bob.resume, bob.delete),
            lambda name: bob.scale(name, 2),
            *(bob.status, bob.front, bob.trials, bob.attempts, bob.events, bob.log),
            lambda name: list(bob.follow_events(name)),
            lambda name: list(bob.follow_log(name)),
        ]
        for name in ("x", "ann/x", "nobody/x"):
            for ask in asked:
                with pytest.raises(JobNotFoundError):
                    ask(name)

    def test_an_operator_changes_what_is_anothers(self, root: Verbs, job: Job) -> None:
        assert root.job("ann/x").name == "x"
        assert root.pause("ann/x").state == "paused"
        with pytest.raises(JobNotFoundError):
            root.job("x")

    # Wishes.

    def test_what_is_wanted_is_done_and_may_be_said_twice(
        self, ann: Verbs, job: Job
    ) -> None:
        for verb, state in (
            (ann.pause, "paused"),
            (ann.pause, "paused"),
            (ann.resume, "queued"),
            (ann.resume, "queued"),
            (ann.cancel, "cancelled"),
            (ann.cancel, "cancelled"),
            (ann.resume, "queued"),
        ):
            assert verb("x").state == state
            assert ann.job("x").state == state

    def test_a_job_that_runs_is_asked_to_stop(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        house.claimed(job)
        assert ann.pause("x").state == "pausing"
        assert ann.cancel("x").state == "cancelling"

    def test_a_resume_may_give_more_but_never_less(self, ann: Verbs, job: Job) -> None:
        more = ann.resume("x", budget={"trials": 40, "minutes": 1.5}, priority=4)
        assert more.budget == {"trials": 40, "minutes": 1.5}
        assert more.priority == 4
        with pytest.raises(SpecError) as raised:
            ann.resume("x", budget={"trials": 4})
        (said,) = raised.value.problems
        assert said.where == "budget.trials"
        assert ann.job("x").budget == more.budget

    def test_what_has_finished_is_not_cancelled_and_goes_on_only_with_more(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        house.end(job, ExitCode.DONE)
        for verb in (ann.cancel, ann.pause, ann.resume):
            with pytest.raises(JobStateError):
                verb("x")
        assert ann.resume("x", budget={"trials": 9}).state == "queued"

    def test_why_a_job_failed_is_told(self, house: House, ann: Verbs, job: Job) -> None:
        house.end(job, ExitCode.PUT_RIGHT)
        found = ann.job("x")
        assert found.state == "failed"
        assert found.why is not None
        assert "it was so" in found.why

    def test_a_job_is_scaled_until_it_has_ended(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        assert ann.scale("x", 4).place == {"workers": 4}
        house.claimed(job)
        assert ann.scale("x", 2).place == ann.scale("x", 2).place == {"workers": 2}
        told = [event.data for event in ann.events("x") if event.kind == "scaled"]
        assert told == [{"from": None, "to": 4}, {"from": 4, "to": 2}]
        for odd in (0, 10_001):
            with pytest.raises(SpecError):
                ann.scale("x", odd)
        with pytest.raises(JobExistsError) as raised:
            ann.submit(study(), place={"workers": 3})
        (said,) = raised.value.problems
        assert said.message.endswith("change it with: evomerge scale x WORKERS")

    def test_what_has_ended_is_not_scaled(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        house.end(job, ExitCode.DONE)
        with pytest.raises(JobStateError):
            ann.scale("x", 2)

    def test_only_what_has_ended_is_deleted(self, ann: Verbs, job: Job) -> None:
        with pytest.raises(JobStateError):
            ann.delete("x")
        ann.cancel("x")
        ann.delete("x")
        with pytest.raises(JobNotFoundError):
            ann.job("x")
        assert ann.submit(study(seed=3))[1]

    # Events and logs.

    def test_events_are_numbered_without_a_gap(self, ann: Verbs, job: Job) -> None:
        for _ in range(3):
            ann.pause("x")
            ann.resume("x")
        found = ann.events("x")
        assert [event.number for event in found] == list(range(1, len(found) + 1))
        assert found[0].kind == "submitted"
        assert ann.events("x", after=2, limit=2) == found[2:4]
        assert not ann.events("x", after=len(found))
        assert len(found) < EVENTS_PAGE

    def test_events_are_followed_until_the_job_rests(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        def go_on() -> None:
            time.sleep(0.5)
            other = house.ask("ann")
            other.resume("x", priority=3)
            other.pause("x")

        thread = threading.Thread(target=go_on)
        thread.start()
        found = list(ann.follow_events("x"))
        thread.join()
        assert found == list(ann.events("x"))
        assert list(ann.follow_events("x", after=1)) == found[1:]

    def test_a_log_is_read_from_any_byte_on(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        assert (ann.log("x").text, ann.log("x").next) == (b"", 0)
        house.say(job, b"one\n\xff\n")
        assert (ann.log("x").text, ann.log("x").next) == (b"one\n\xff\n", 6)
        assert ann.log("x", 4).text == b"\xff\n"
        assert ann.log("x", 6).text == b""

    def test_a_log_is_followed_until_the_job_rests(
        self, house: House, ann: Verbs, job: Job
    ) -> None:
        def go_on() -> None:
            time.sleep(0.5)
            house.say(job, b"two\n")
            house.ask("ann").cancel("x")

        house.say(job, b"one\n")
        thread = threading.Thread(target=go_on)
        thread.start()
        parts = list(ann.follow_log("x"))
        thread.join()
        assert b"".join(part.text for part in parts) == b"one\ntwo\n"
        assert parts[-1].next == 8

    # The study.

    def test_a_job_that_has_not_begun_has_no_study(self, ann: Verbs, job: Job) -> None:
        for ask in (ann.status, ann.front, ann.trials, ann.attempts):
            with pytest.raises(StudyNotFoundError):
                ask("x")

    @pytest.fixture
    def searched(self, house: House, ann: Verbs) -> Iterator[Job]:
        """Return a job whose study was searched."""
        raise NotImplementedError

    def test_a_study_is_told_as_the_commands_print_it(
        self, house: House, ann: Verbs, searched: Job
    ) -> None:
        for verb, read in (
            (ann.status, api.status),
            (ann.front, api.front),
            (ann.trials, api.trials),
            (ann.attempts, api.attempts),
        ):
            told = verb(searched.name)
            assert told
            assert told == json.loads(
                json.dumps(plain(read(searched.study, db=house.url)))
            )

    # Exports.

    def test_an_export_that_is_not_there_is_not_found(
        self, ann: Verbs, job: Job, tmp_path: Path
    ) -> None:
        with pytest.raises(JobNotFoundError):
            ann.export_state("x", "17")
        with pytest.raises(JobNotFoundError):
            ann.download("x", "17", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_the_same_export_asked_for_again_is_the_same(
        self, ann: Verbs, bob: Verbs, searched: Job, tmp_path: Path
    ) -> None:
        first = ann.export(searched.name, 2, is_scored=False)
        assert (first.name, first.trial, first.is_scored) == ("ann/found", 2, False)
        assert first.state == "queued"
        assert ann.export(searched.name, 2, is_scored=False) == first
        assert ann.export_state(searched.name, first.id) == first
        assert ann.export(searched.name, 3, is_scored=False).id != first.id
        with pytest.raises(ExportError):
            ann.download(searched.name, first.id, tmp_path / "out")
        with pytest.raises(JobNotFoundError):
            bob.export("ann/found", 2)

    # Tokens, users, workers.

    def test_tokens_are_made_listed_and_revoked(self, ann: Verbs) -> None:
        secret = ann.add_token(NewToken("laptop", frozenset({Scope.READ}), 3600.0))
        assert secret.startswith("emk_")
        found = {token.name: token for token in ann.tokens()}["laptop"]
        assert found.user == "ann"
        assert found.scopes == {Scope.READ}
        assert found.expires is not None
        assert found.revoked is None
        assert secret not in repr(ann.tokens())
        ann.revoke_token("laptop")
        ann.revoke_token("laptop")
        revoked = {token.name: token.revoked for token in ann.tokens()}
        assert revoked["laptop"] is not None

    def test_a_token_gives_no_more_than_the_one_shown(self, ann: Verbs) -> None:
        with pytest.raises(ForbiddenError):
            ann.add_token(NewToken("more", frozenset({Scope.OPERATE})))
        with pytest.raises((UserError, TokenError)):
            ann.revoke_token("nothing")
        ann.add_token(NewToken("one", frozenset({Scope.READ})))
        with pytest.raises(UserError):
            ann.add_token(NewToken("one", frozenset({Scope.READ})))
        with pytest.raises(SpecError):
            ann.add_token(NewToken("none"))

    def test_admins_add_users_and_others_do_not_see_them(
        self, ann: Verbs, root: Verbs
    ) -> None:
        new = NewUser("cleo", Role.OPERATOR, 2.0, 3, None)
        assert root.add_user(new).role is Role.OPERATOR
        (found,) = [user for user in root.users() if user.name == "cleo"]
        assert (found.weight, found.max_running) == (2.0, 3)
        with pytest.raises(UserError):
            root.add_user(new)
        with pytest.raises(ForbiddenError):
            ann.users()
        with pytest.raises(ForbiddenError):
            ann.add_user(NewUser("dan"))

    def test_workers_are_listed_drained_and_let_back(
        self, house: House, ann: Verbs, root: Verbs, job: Job
    ) -> None:
        assert list(ann.workers()) == []
        store = open_store(house.url)
        lease = store.lease(store.create_study("x", {}, {}, 1).id, this_process(), 60)
        store.record_crew(lease, [CrewMember("w0-ab", True, {"node_id": "n1"})])
        (found,) = root.workers()
        assert (found.id, found.state, found.study) == ("w0-ab", "busy", "x")
        assert root.drain_worker("w0-ab") == root.drain_worker("w0-ab")
        (found,) = root.workers()
        assert found.state == "draining"
        assert store.wishes(lease.study_id).drained == {"w0-ab": "n1"}
        for verb in (ann.drain_worker, ann.undrain_worker):
            with pytest.raises(ForbiddenError):
                verb("w0-ab")
        for verb in (root.drain_worker, root.undrain_worker):
            with pytest.raises(WorkerNotFoundError):
                verb("w1-ab")
        store.record_crew(lease, ())
        assert root.workers()[0].state == "drained"
        root.undrain_worker("w0-ab")
        assert list(root.workers()) == []
        store.close()
