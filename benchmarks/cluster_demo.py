"""The whole service on one bare machine, struck twice, with the same winner.

    PYTHONPATH=tests python benchmarks/cluster_demo.py [--folder demo/cluster]

PostgreSQL, a Ray head, two worker nodes with raylets of their own, two replicas of the
service; a study of real merges is submitted from an environment that has a light client
only, and followed. Half-way one worker node is killed, and then the replica that runs
the study. It goes on, ends, and its winner is downloaded. An undisturbed run of the
same study in one process must have found the same, trial by trial. Works without root,
on Linux. The models are tiny and random: what is shown is the service, not a result.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import psycopg
from demo.light import LightClient
from demo.programs import Program, free_port, ray_node, until
from support.postgres import running
from support.real_study import NAME, decided, write_real_study

from evomerge import api

TRIALS = 32
BLOCK_S = 0.6
PATIENCE_S = 600.0
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_health_check_initial_delay_ms": "20000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_storage": "rocksdb",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
    "RAY_raylet_start_wait_time_s": "40",
}
_STANDING = """
SELECT count(a.ended) FILTER (WHERE a.end <> 'interrupted'),
  count(DISTINCT a.worker) FILTER (WHERE a.ended IS NULL), s.lease_pid
FROM em_study s LEFT JOIN em_attempt a ON a.study_id = s.id
WHERE s.name = %s GROUP BY s.id
"""


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        folder: For all it writes.
        times: What was done, and how many seconds it took.
    """

    folder: Path
    stack: ExitStack
    times: list[tuple[str, float]] = field(default_factory=list)
    nodes: dict[str, Program] = field(default_factory=dict)
    replicas: dict[str, Program] = field(default_factory=dict)
    url: str = ""

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Tell what is being done, and how long it took."""
        print(f"==> {what}", flush=True)
        began = time.monotonic()
        yield
        self.times.append((what, time.monotonic() - began))

    def run(self) -> None:
        """Do all of it.

        Raises:
            AssertionError: Something was not as it must be.
        """
        with self.step("an environment with the light client"):
            client = LightClient(self.folder / "laptop")
            print(f"    {', '.join(client.packages)}")
        study = self._write_study(client)
        with self.step("PostgreSQL"):
            server = self.stack.enter_context(running())
            self.url = server.database()
        with self.step("a Ray head and two worker nodes"):
            address = self._start_ray()
        with self.step("two replicas of the service, a user and a token"):
            self._start_replicas(address)
            self._add_user(client)
        with self.step("submitted, and submitted again: one job"):
            client.call("submit", study)
            client.call("submit", study)
        follower = self._follow(client)
        with self.step("two workers at work, a third of the trials done"):
            self._until(lambda n, at_work, _: n >= TRIALS // 3 and at_work == 2)
        with self.step("a worker node killed: three more trials have ended"):
            before = self._standing()[0]
            self.nodes.pop("worker-1").kill()
            self._until(lambda n, *_: n >= before + 3)
        with self.step("the replica with the job killed: three more trials have ended"):
            before = self._standing()[0]
            self.replicas.pop(self._holder()).kill_alone()
            self._until(lambda n, *_: n >= before + 3)
        with self.step("finished"):
            client.call("wait", NAME)
            until(lambda: not follower.is_running, PATIENCE_S)
            self._look_at_events(follower)
        # Before the export, whose scores on sealed items stand beside these.
        with self.step("the same, undisturbed in one process"):
            self._compare()
        with self.step("the winner exported and downloaded"):
            client.call("export", NAME, "best", "--remote")
            assert (client.folder / "best" / "model.safetensors").exists()
        print(client.call("front", NAME))

    def _start_ray(self) -> str:
        folder = self.folder / "ray"
        folder.mkdir()
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        # Short, for its sockets; Ray leaves it behind.
        place = Path(self.stack.enter_context(_short_folder()))
        self.environment = {
            **os.environ,
            **RAY,
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_gcs_storage_path": str(folder / "gcs"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        address = f"127.0.0.1:{free_port()}"
        words = ["--head", "--port", address.partition(":")[2], "--num-cpus", 0]
        words += ["--include-dashboard=false", "--disable-usage-stats"]
        words += ["--temp-dir", place / "r", "--node-ip-address", "127.0.0.1"]
        self._add_node("head", folder, words)
        for number in (1, 2):
            # A node of its own address each, as if it were a machine.
            words = ["--address", address, "--num-cpus", 1]
            words += ["--node-ip-address", f"127.0.0.{1 + number}"]
            self._add_node(f"worker-{number}", folder, words)
        return address

    def _add_node(self, name: str, folder: Path, words: list[object]) -> None:
        self.nodes[name] = ray_node(folder, name, words, self.environment)
        self.stack.callback(self.nodes[name].kill)

    def _start_replicas(self, address: str) -> None:
        spool = self.folder / "spool"
        spool.mkdir(mode=0o700)
        policy = self.folder / "cluster.yaml"
        policy.write_text(json.dumps({"roots": [str(self.folder / "models")]}))
        environment = {**self.environment, "EVOMERGE_DB": self.url}
        for number in (1, 2):
            listen = f"127.0.0.1:{free_port()}"
            words = [sys.executable, "-m", "evomerge", "serve", "--listen", listen]
            words += ["--spool", str(spool), "--address", address]
            words += ["--config", str(policy)]
            log = self.folder / f"replica-{number}.log"
            replica = Program(words, log, environment)
            self.stack.callback(replica.kill)
            self.replicas[f"http://{listen}"] = replica
        for url, replica in self.replicas.items():
            until(lambda u=url, r=replica: _is_ready(u, r), 120)

    def _add_user(self, client: LightClient) -> None:
        for words in (
            ["user", "add", "ann"],
            ["token", "add", "ann", "laptop", "--scope", "read", "--scope", "write"],
        ):
            done = _evomerge(words, self.environment | {"EVOMERGE_DB": self.url})
        (secret,) = [word for word in done.split() if word.startswith("emk_")]
        token = client.folder / "token"
        token.touch(0o600)
        token.write_text(secret)
        client.log_in(",".join(self.replicas), token)

    def _write_study(self, client: LightClient) -> Path:
        models = self.folder / "models"
        models.mkdir()
        write_real_study(models, {"kind": "hf"}, TRIALS, BLOCK_S)
        for name in ("calm", NAME):
            file = models / f"{name}.yaml"
            study = json.loads(file.read_text())
            study["sources"] = {s: str(models / s) for s in study["sources"]}
            file.write_text(json.dumps(study))
        shutil.copytree(models / "tasks", client.folder / "tasks")
        return Path(shutil.copy(models / f"{NAME}.yaml", client.folder))

    def _follow(self, client: LightClient) -> Program:
        words = client.words("events", NAME, "--follow", "--json")
        follower = Program(words, self.folder / "events.log", client.environment)
        self.stack.callback(follower.kill)
        return follower

    def _look_at_events(self, follower: Program) -> None:
        """Whoever followed was told every event once, whichever replica told it."""
        lines = follower.log.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        numbers = [event["number"] for event in told]
        assert numbers == list(range(1, len(numbers) + 1)), lines
        kinds = [event["kind"] for event in told]
        print(f"    events: {', '.join(kinds)}")
        assert kinds.count("supervisor_lost") == 1
        assert told[-1]["data"]["state"] == "finished", told[-1]

    def _standing(self) -> tuple[int, int, int | None]:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(_STANDING, [NAME]).fetchone()
        return (0, 0, None) if row is None else row

    def _until(self, is_so: Callable[[int, int, int | None], bool]) -> None:
        until(lambda: is_so(*self._standing()), PATIENCE_S)

    def _holder(self) -> str:
        """Return the replica whose child has the study's lease."""
        pid = self._standing()[2]
        (found,) = [u for u, r in self.replicas.items() if pid in r.family()]
        return found

    def _compare(self) -> None:
        models = self.folder / "models"
        db = f"sqlite:///{self.folder}/calm.db"
        where = api.Where(None, None, True, self.folder / "cache-calm")
        api.search(api.prepare(models / "calm.yaml", db=db, where=where))
        pairs = zip(decided(self.url), decided(db), strict=True)
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        assert not differing, f"the undisturbed run differs: {differing[:3]}"


@contextmanager
def _short_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="em-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_ready(url: str, replica: Program) -> bool:
    replica.must_run()
    connection = HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _evomerge(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    """Run the demo, and print the time of each step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("demo/cluster"))
    folder = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    with ExitStack() as stack:
        demo = Demo(folder, stack)
        try:
            demo.run()
        finally:
            print("\n| step | seconds |\n|---|---:|")
            for what, seconds in [*demo.times, ("all", time.monotonic() - began)]:
                print(f"| {what} | {seconds:.0f} |", flush=True)
    print("\nThe same winner and the same trials as an undisturbed run.")


if __name__ == "__main__":
    main()
