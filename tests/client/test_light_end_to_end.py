"""A light client and a real service: from login to the end, and to the model."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.light_client import CALL_ALL, make_light, run_light
from support.services import Service, serving
from support.study_files import simulated_study, write_models

from evomerge.checkpoints import read_model

Said = dict[str, tuple[int, str, str]]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light(tmp_path_factory.mktemp("light"))


class Laptop:
    """A machine that has the light client, and a token's file of its own."""

    def __init__(self, light: Path, url: str, folder: Path) -> None:
        self.light, self.url, self.folder = light, url, folder

    def call(self, *commands: str) -> Said:
        env = {
            "EVOMERGE_CLUSTER": self.url,
            "EVOMERGE_TOKEN_FILE": str(self.folder / "token"),
        }
        found: Said = json.loads(run_light(self.light, CALL_ALL, commands, env))
        return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool") as found:
        yield found


@pytest.fixture
def laptop(light: Path, service: Service, tmp_path: Path) -> Laptop:
    (tmp_path / "token").write_text(service.tokens["ann"])
    (tmp_path / "token").chmod(0o600)
    return Laptop(light, service.url, tmp_path)


def write_study(folder: Path, **changes: object) -> Path:
    study = simulated_study(write_models(folder / "models"), **changes)
    (folder / "sim.yaml").write_text(json.dumps(study))
    return folder / "sim.yaml"


def test_a_job_is_looked_after_from_a_laptop(laptop: Laptop, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    said = laptop.call(
        f"submit {study} --priority 2 --workers 3",
        f"submit {study} --priority 2 --workers 3 --json",
        f"submit {study} --priority 3 --workers 3",
        f"check {study}",
        "ps",
        "ps --json --filter place.workers=3 --state queued",
        "pause sim",
        "wait sim",
        "resume sim --trials 40 --json",
        "resume sim --trials 4",
        "wait sim --timeout 0.1",
        "events sim",
        "logs sim",
        "status sim",
        "pause sim --json",
        "status sim --follow",
        "cancel sim",
        "wait sim --json",
        "ps --all",
        "events sim --json",
        "ps ",
        "cancel other",
    )
    codes = {words: code for words, (code, _, _) in said.items()}
    assert {words for words, code in codes.items() if code == 2} == {
        f"submit {study} --priority 3 --workers 3",
        "resume sim --trials 4",
        "status sim",
        "cancel other",
    }
    assert {codes["wait sim"], codes["wait sim --json"]} == {4}
    assert codes["wait sim --timeout 0.1"] == 75
    out = {words: out for words, (_, out, _) in said.items()}
    err = {words: err for words, (_, _, err) in said.items()}
    first, again, other = (words for words in said if words.startswith("submit"))
    assert out[first].startswith("ann/sim is queued (study sim")
    assert f"{tmp_path}/models/base" in out[first]
    assert json.loads(out[again])["is_new"] is False
    assert "priority: is 2 there, 3 here" in err[other]
    assert "the cluster finds no mistakes" in out[f"check {study}"]
    assert out["ps"].splitlines()[0].split()[:3] == ["job", "study", "state"]
    (job,) = json.loads(
        out["ps --json --filter place.workers=3 --state queued"],
    )
    assert (job["address"], job["priority"]) == ("ann/sim", 2)
    assert out["pause sim"] == "ann/sim is paused.\n"
    assert json.loads(out["resume sim --trials 40 --json"])["budget"] == {"trials": 40}
    assert err["resume sim --trials 4"].endswith(
        "Error: budget.trials: expected at least the 40 that it has, got 4\n"
    )
    assert [line.split()[3] for line in out["events sim"].splitlines()] == [
        "submitted",
        "pause_wanted",
        "run_wanted",
    ]
    assert out["logs sim"] == ""
    assert "sim" in err["status sim"]
    assert out["status sim --follow"] == "sim is paused.\n"
    assert out["cancel sim"] == "ann/sim is cancelled.\n"
    assert "cancelled" in out["ps --all"]
    numbers = [event["number"] for event in json.loads(out["events sim --json"])]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "Queue one: evomerge submit STUDY" in out["ps "]
    assert "other" in err["cancel other"]


def test_every_mistake_of_a_study_is_told_as_it_would_be_here(
    laptop: Laptop, tmp_path: Path
) -> None:
    study = write_study(tmp_path, budget={"trils": 3}, objectives=3)
    ((code, out, err),) = laptop.call(f"check {study}").values()
    assert (code, out) == (2, "")
    said = err[err.index("Error: ") :].splitlines()  # after a line, if it took long
    assert said == [
        "Error: sim.yaml:1: objectives: expected a list, got 3.",
        "sim.yaml:1: budget.trils: unknown key; did you mean 'trials'?",
    ]


def test_a_token_is_tried_and_kept_for_its_owner_alone(
    light: Path, service: Service, tmp_path: Path
) -> None:
    program = """
import io, sys
from evomerge.cli.app import main
sys.stdin = io.StringIO(sys.argv.pop())
main(["login", "--json"])
"""
    file = tmp_path / "kept"
    env = {"EVOMERGE_CLUSTER": service.url, "EVOMERGE_TOKEN_FILE": str(file)}
    said = json.loads(run_light(light, program, [service.tokens["ann"] + "\n"], env))
    assert (said["user"], said["role"], said["file"]) == ("ann", "user", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    wrong = f"emk_{'x' * 43}"
    with pytest.raises(AssertionError, match="nobody's") as raised:
        run_light(light, program, [wrong], env)
    assert wrong not in str(raised.value)
    assert file.read_text().strip() == service.tokens["ann"]


def test_no_cluster_and_no_token_are_told(light: Path, tmp_path: Path) -> None:
    laptop = Laptop(light, "http://127.0.0.1:9", tmp_path)
    ((code, _, err),) = laptop.call("ps").values()
    assert code == 2
    assert "Run: evomerge login" in err
    (tmp_path / "token").write_text(f"emk_{'x' * 43}")
    ((code, _, err),) = laptop.call("ps").values()
    assert code == 2
    assert f"chmod 600 {tmp_path}/token" in err
    (tmp_path / "token").chmod(0o600)
    began = time.monotonic()
    ((code, _, err),) = laptop.call("ps").values()
    assert code == 75
    assert "http://127.0.0.1:9: Connection refused" in err
    assert time.monotonic() - began < 30


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_study_is_searched_followed_and_exported(
    light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    study = write_study(tmp_path)
    url, spool = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool"
    with serving(url, spool, capacity=1) as one, serving(url, spool) as two:
        (tmp_path / "token").write_text(one.tokens["ann"])
        (tmp_path / "token").chmod(0o600)
        laptop = Laptop(light, f"{two.url},{one.url}", tmp_path)
        said = laptop.call(
            f"submit {study} --follow",
            "wait sim",
            "status sim --json",
            "front sim",
            "trials sim --json",
            "attempts sim",
            "logs -f sim",
            "events -f sim --json",
            f"export sim {tmp_path}/out --no-score --json",
            f"export sim {tmp_path}/out --no-score",
        )
    *worked, again = said
    for words in worked:
        assert said[words][0] == 0, (words, said[words])
    assert said[worked[0]][1].rstrip().endswith("ann/sim is finished.")
    assert json.loads(said["status sim --json"][1])["trials"] >= 6
    assert "front of sim" in said["front sim"][1]
    assert json.loads(said["trials sim --json"][1])[0]["number"] == 0
    assert "finished" in said["logs -f sim"][1] or said["logs -f sim"][1]
    lines = said["events -f sim --json"][1].splitlines()
    assert json.loads(lines[-1])["kind"] == "ended"
    exported = json.loads(said[worked[-1]][1])
    assert read_model(tmp_path / "out").fingerprint == exported["fingerprint"]
    assert said[again][0] == 2
    assert "exists already; nothing is overwritten" in said[again][2]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_how_a_study_stands_is_followed_from_a_laptop(
    light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"items": 20, "sleep_s": 0.3}
    tasks = {"one": {"task": "simulated", "metric": "acc", "options": options}}
    study = write_study(tmp_path, tasks=tasks)
    url, spool = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "spool"
    with serving(url, spool, capacity=1) as one:
        (tmp_path / "token").write_text(one.tokens["ann"])
        (tmp_path / "token").chmod(0o600)
        said = Laptop(light, one.url, tmp_path).call(
            f"submit {study}", "status sim --follow --json", "status sim --follow"
        )
    code, out, _ = said["status sim --follow --json"]
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert len(told) > 1
    assert (told[-1]["done"], told[-1]["allowed"], told[-1]["left_s"]) == (6, 6, 0.0)
    assert told[-1]["trials_per_hour"] > 0
    code, out, err = said["status sim --follow"]
    assert code == 0
    assert "sim | 6 of 6 trials | best score" in err
    assert "trial budget used" in out


def test_following_goes_on_at_another_replica(
    light: Path, tmp_path: Path, laptop: Laptop, service: Service
) -> None:
    """One replica ends while events are followed; the other tells the rest."""
    service.submit("x", {"name": "x"})
    with serving(service.db, service.spool) as other:
        both = Laptop(light, f"{other.url},{service.url}", tmp_path)
        found: list[Said] = []
        thread = threading.Thread(
            target=lambda: found.append(both.call("events -f x --json"))
        )
        thread.start()
        time.sleep(2.0)
        service.call("POST", "/v1/studies/x/pause")
        service.call("POST", "/v1/studies/x/resume", {})
    service.call("POST", "/v1/studies/x/cancel")
    thread.join(60)
    ((code, out, _),) = found[0].values()
    numbers = [json.loads(line)["number"] for line in out.splitlines()]
    assert code == 0
    assert numbers == list(range(1, len(numbers) + 1))
    assert json.loads(out.splitlines()[-1])["kind"] == "cancel_wanted"


def test_workers_tokens_and_what_has_ended_are_looked_after_from_a_laptop(
    laptop: Laptop, tmp_path: Path
) -> None:
    study = write_study(tmp_path)
    said = laptop.call(
        f"submit {study} --json",
        "scale sim 3 --json",
        "scale sim 0",
        "workers",
        "workers --json",
        "workers drain w0-ab",
        "token add laptop --scope read",
        "token list",
        "token list --json",
        "token list ann",
        "token revoke ann laptop",
        "token revoke laptop",
        "delete sim --yes",
        "cancel sim",
        "delete sim --json",
        "delete sim --json --yes",
        "ps -a --json",
    )
    out = {words: out for words, (_, out, _) in said.items()}
    err = {words: err for words, (_, _, err) in said.items()}
    assert json.loads(out["scale sim 3 --json"])["place"] == {"workers": 3}
    assert out["workers"] == "No study has a worker now.\n"
    assert json.loads(out["workers --json"]) == []
    assert "scope 'operate'" in err["workers drain w0-ab"]
    assert out["token add laptop --scope read"].startswith("emk_")
    assert "laptop" in out["token list"]
    tokens = json.loads(out["token list --json"])
    assert "laptop" in {token["name"] for token in tokens}
    assert "the tokens are your own" in err["token list ann"]
    assert "Got 'ann laptop'" in err["token revoke ann laptop"]
    assert out["token revoke laptop"] == "Token laptop holds no more.\n"
    assert "only one that has ended can be deleted" in err["delete sim --yes"]
    assert "ann/sim with its study, log and exports? Nobody" in err["delete sim --json"]
    assert json.loads(out["delete sim --json --yes"]) == {
        "job": "ann/sim",
        "study": "sim",
    }
    assert json.loads(out["ps -a --json"]) == []
    assert {words for words, (code, _, _) in said.items() if code} == {
        *("scale sim 0", "workers drain w0-ab", "token list ann"),
        *("token revoke ann laptop", "delete sim --yes", "delete sim --json"),
    }
