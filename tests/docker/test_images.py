"""What docker/ holds: images, compose file, manifests, scripts, without a daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.service.policy import read_policy

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SCRIPTS = [
    DOCKER / "start",
    DOCKER / "secrets.sh",
    DOCKER / "slurm" / "evomerge.sbatch",
]
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*.yaml"))
TARGETS = ("service", "head", "worker-cpu", "worker-cuda")


def tool(name: str) -> str:
    """Return a checker that stands beside this Python, or skip."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **env} if env else None,
    )


def stage(target: str) -> str:
    """Return the instructions of one image."""
    return re.split(r"^FROM ", DOCKERFILE.split(f" AS {target}\n")[1], flags=re.M)[0]


def images() -> Iterator[str]:
    yield DOCKERFILE.partition("ARG BASE=")[2].partition("\n")[0]
    for service in COMPOSE["services"].values():
        if "build" not in service:
            yield service["image"]


def test_every_image_from_elsewhere_is_pinned_to_a_whole_version() -> None:
    for image in images():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image), image


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_built_from_pinned_packages_and_runs_as_nobody(target: str) -> None:
    text = stage(target)
    assert "USER 10001\n" in text
    for line in re.findall(r"pip install .*", text):
        assert "-c requirements/" in line, line


def test_every_image_says_whether_it_is_well() -> None:
    assert "HEALTHCHECK" in stage("base")
    assert all(
        f"ENV EVOMERGE_NODE={kind}" in DOCKERFILE
        for kind in ("service", "head", "worker")
    )


def test_ports_of_the_compose_file_are_on_loopback() -> None:
    ports = [p for s in COMPOSE["services"].values() for p in s.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nodes_of_the_compose_file_own_nothing_but_their_volumes() -> None:
    built = [s for s in COMPOSE["services"].values() if "build" in s]
    assert len(built) == 5
    for service in built:
        assert service["read_only"]
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]


def test_two_replicas_stand_behind_one_port() -> None:
    proxy = (DOCKER / "haproxy.cfg").read_text()
    replicas = [name for name in COMPOSE["services"] if name.startswith("replica-")]
    assert len(replicas) == 2
    assert all(f"server {name} {name}:7077" in proxy for name in replicas)


def test_secrets_are_files_and_no_variable_holds_one() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for service in COMPOSE["services"].values():
        for name in service.get("environment", {}):
            is_path = name.endswith("_FILE")
            assert is_path or not re.search("PASSWORD|TOKEN|SECRET|DB_URL", name)


def test_every_file_that_the_compose_file_mounts_is_there() -> None:
    for config in COMPOSE["configs"].values():
        assert (DOCKER / config["file"]).is_file(), config["file"]


def test_secrets_are_made_once_and_nobody_else_may_enter_their_folder(
    tmp_path: Path,
) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text((DOCKER / "secrets.sh").read_text())
    assert run("bash", script).returncode == 0
    made = {p.name: p.read_text() for p in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert made["db_password"] in made["db_url"]
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert run("bash", script).returncode == 0
    assert made == {p.name: p.read_text() for p in (tmp_path / "secrets").iterdir()}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound(script: Path) -> None:
    assert run("bash", "-n", script).returncode == 0
    found = run(tool("shellcheck"), script)
    assert found.returncode == 0, found.stdout


def test_a_container_of_an_unknown_kind_says_what_it_may_be() -> None:
    found = run(DOCKER / "start", EVOMERGE_NODE="cook", RAY_AUTH_TOKEN_PATH="/dev/null")
    assert found.returncode == 2
    assert "expected service, head or worker, got cook" in found.stderr


def test_a_container_without_rays_token_says_so_before_anything_starts() -> None:
    found = run(
        DOCKER / "start", EVOMERGE_NODE="worker", RAY_AUTH_TOKEN_PATH="/nowhere/token"
    )
    assert found.returncode == 2
    assert "/nowhere/token: cannot be read" in found.stderr


def test_a_container_runs_a_command_instead() -> None:
    found = run(DOCKER / "start", "echo", "well", EVOMERGE_NODE="worker")
    assert (found.returncode, found.stdout) == (0, "well\n")


def test_a_command_in_a_service_container_has_the_database(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:///e.db")
    found = run(
        DOCKER / "start",
        "printenv",
        "EVOMERGE_DB",
        EVOMERGE_NODE="service",
        EVOMERGE_DB_FILE=str(tmp_path / "url"),
    )
    assert found.stdout == "sqlite:///e.db\n"


def test_a_search_in_an_allocation_asks_for_a_study_and_a_database() -> None:
    script = DOCKER / "slurm" / "evomerge.sbatch"
    assert "the study file is the argument" in run("bash", script).stderr
    said = run("bash", script, "study.yaml", SLURM_JOB_ID="1").stderr
    assert "EVOMERGE_DB: the URL of the database" in said


def test_the_image_file_passes_its_linter() -> None:
    found = run(tool("hadolint"), "--failure-threshold", "info", DOCKER / "Dockerfile")
    assert found.returncode == 0, found.stdout


def test_the_compose_file_is_read_by_a_real_reader(tmp_path: Path) -> None:
    # A dry run reads the file without asking whether there is a podman.
    reader = (tool("podman-compose"), "--dry-run")
    found = run(*reader, "-f", DOCKER / "compose.yaml", "config")
    assert found.returncode == 0, found.stderr
    assert "replica-2" in found.stdout


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the pod templates of a manifest, however deep."""
    for key, value in manifest.items():
        if key == "template":
            yield value["spec"]
        elif isinstance(value, dict):
            yield from pods(value)
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    yield from pods(entry)


def test_every_pod_is_one_that_kubernetes_takes(tmp_path: Path) -> None:
    checker = tool("kubernetes-validate")
    documents = [d for m in MANIFESTS for d in yaml.safe_load_all(m.read_text())]
    every = [pod for document in documents for pod in pods(document)]
    assert len(every) == 5
    written = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        for pod in every
    ]
    plain = [d for d in documents if not d["apiVersion"].startswith("ray.io")]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all([*written, *plain]))
    found = run(checker, "--strict", file)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_pod_runs_as_nobody() -> None:
    for manifest in MANIFESTS:
        for document in yaml.safe_load_all(manifest.read_text()):
            for pod in pods(document):
                assert pod["securityContext"]["runAsUser"] == 10001
                for container in pod["containers"]:
                    context = container["securityContext"]
                    assert context["capabilities"] == {"drop": ["ALL"]}


def test_a_cluster_of_rays_operator_can_be_suspended() -> None:
    for name in ("raycluster", "rayjob"):
        text = (DOCKER / "kubernetes" / f"{name}.yaml").read_text()
        assert yaml.safe_load(text)["spec"]["suspend"] is False


def test_the_policy_of_the_containers_is_one(tmp_path: Path) -> None:
    text = (DOCKER / "cluster.yaml").read_text()
    file = tmp_path / "cluster.yaml"
    file.write_text(text.replace("/models", str(tmp_path)))
    policy = read_policy(file)
    assert list(policy.roots) == [str(tmp_path)]
    assert not policy.allow_task_code
    assert not policy.allow_remote_code
