"""What keeps a coordinator from joining a Ray, told before Ray is asked."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private import services

from evomerge.cluster import preflight
from evomerge.errors import EvomergeError, SetupError, WorkerError
from evomerge.exit_codes import ExitCode, exit_code_of


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def told(address: str) -> EvomergeError:
    with pytest.raises(EvomergeError) as caught:
        preflight.look(address)
    return caught.value


def test_an_address_where_nobody_listens_is_worth_another_try() -> None:
    address = f"127.0.0.1:{free_port()}"
    error = told(address)
    assert f"No Ray answers at {address}" in str(error)
    assert exit_code_of(error) is ExitCode.TRY_AGAIN


def test_an_address_without_a_port_is_a_mistake() -> None:
    error = told("head:gcs")
    assert str(error) == "Expected an address of Ray as HOST:PORT, got 'head:gcs'."
    assert exit_code_of(error) is ExitCode.PUT_RIGHT


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_token_that_is_not_there_is_named_with_its_file(
    token: Path, content: str | None
) -> None:
    token.unlink() if content is None else token.write_text(content)
    error = told(f"127.0.0.1:{free_port()}")
    assert str(token) in str(error)
    assert exit_code_of(error) is ExitCode.PUT_RIGHT


def test_other_forms_of_an_address_are_left_to_ray() -> None:
    preflight.look("auto")
    preflight.look("ray://head:10001")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RuntimeError("RPC error: InvalidAuthToken: no"), SetupError, "this token"),
        (
            RuntimeError("Version mismatch: The cluster was started with:\n Ray: 2.0"),
            SetupError,
            "The cluster was started with: Ray: 2.0 Install the same",
        ),
        (ConnectionError("gone"), WorkerError, "Could not reach or start Ray at h:1"),
        (WorkerError("as it was"), WorkerError, "as it was"),
    ],
)
def test_why_ray_was_not_joined_is_told_in_our_words(
    error: Exception, kind: type[EvomergeError], says: str
) -> None:
    found = preflight.told(error, "h:1")
    assert type(found) is kind
    assert says in str(found)
    assert "\n" not in str(found)


@pytest.fixture
def address() -> Iterator[str]:
    """Somebody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def its_nodes(monkeypatch: pytest.MonkeyPatch, answers: list[set[str]]) -> None:
    """Which nodes the Ray has, question by question; ours is beside this process."""
    monkeypatch.setattr(preflight, "_alive", lambda address: answers.pop(0))
    monkeypatch.setattr(services, "find_node_ids", lambda: {"ours"})
    monkeypatch.setattr(preflight, "sleep", lambda seconds: None)


def test_a_head_that_comes_up_on_this_machine_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    answers: list[set[str]] = [set(), {"another"}, {"another", "ours"}]
    its_nodes(monkeypatch, answers)
    preflight.look(address)
    assert not answers


def test_a_node_is_not_waited_for_where_the_head_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(preflight, "_is_here", lambda address: False)
    its_nodes(monkeypatch, [{"another"}])
    assert f"no node of the Ray at {address}" in str(told(address))
