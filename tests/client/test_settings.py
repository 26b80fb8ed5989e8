"""Which cluster is meant, and a token that nobody else may read."""

import stat
from pathlib import Path

import pytest

from evomerge.client import connect
from evomerge.client.settings import (
    addresses,
    read_token,
    token_file,
    write_token,
)
from evomerge.errors import SetupError, SpecError, TokenError

TOKEN = "emk_" + "k" * 43


def test_urls_are_read_with_their_ports_and_paths() -> None:
    found = addresses(" https://a , http://b:8080/evo/,https://[::1]:7077, https://a")
    assert [str(each) for each in found] == [
        "https://a:443",
        "http://b:8080/evo",
        "https://[::1]:7077",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "got nothing"),
        ("cluster:7077", "neither https:// nor http://"),
        ("ftp://a", "neither https:// nor http://"),
        ("https://", "names no host"),
        ("https://ann:hunter2@a", "holds a user"),
        ("https://a:99999", "Port out of range"),
        ("https://a?token=hunter2", "holds a query"),
        ("https://a/x y", "its path holds more"),
        ("https://a b", "names no host"),
    ],
)
def test_what_is_no_url_is_told_without_what_may_be_secret(
    text: str, said: str
) -> None:
    with pytest.raises(SpecError) as raised:
        addresses(text)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_token_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token"
    write_token(file, TOKEN)
    write_token(file, TOKEN)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_token(file) == TOKEN
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o660, 0o644])
def test_a_token_that_others_may_read_is_refused_with_what_to_run(
    mode: int, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(mode)
    with pytest.raises(TokenError) as raised:
        read_token(file)
    assert f"chmod 600 {file}" in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_no_token_says_how_to_have_one(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="Run: evomerge login"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("text", ["", "hf_" + "k" * 40, TOKEN + " x", "emk_\xff" * 20])
def test_what_is_no_token_is_refused_and_never_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(TokenError) as raised:
        read_token(file)
    assert len(text) < 5 or text not in str(raised.value)


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="cannot be read"):
        read_token(tmp_path)


def test_a_token_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="EVOMERGE_TOKEN_FILE"):
        write_token(tmp_path / "file" / "token", TOKEN)


def test_where_the_token_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert token_file({}) == Path("/home/ann/.config/evomerge/token")
    assert token_file({"XDG_CONFIG_HOME": "/c"}) == Path("/c/evomerge/token")
    assert token_file({"EVOMERGE_TOKEN_FILE": "~/t"}) == Path("/home/ann/t")


def test_a_cluster_is_found_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_token(tmp_path / "token", TOKEN)
    monkeypatch.setenv("EVOMERGE_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("EVOMERGE_CLUSTER", "https://a,https://b:1")
    assert repr(connect()) == "RemoteService(https://a:443, https://b:1)"
    assert TOKEN not in repr(connect())
