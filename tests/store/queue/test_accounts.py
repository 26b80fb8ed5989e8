"""Users and tokens: shown once, hashed, limited, taken back."""

import hashlib

import pytest
from support.searched import ask, by_hand

from evomerge.errors import SpecError, TokenError, UserError
from evomerge.store.queue.accounts import Accounts
from evomerge.store.queue.values import Role, Scope


def test_a_secret_is_long_random_and_kept_nowhere(
    accounts: Accounts, any_url: str
) -> None:
    secrets = {accounts.add_token("ann", f"t{i}", {Scope.READ}) for i in range(20)}
    assert len(secrets) == 20
    for secret in secrets:
        assert secret.startswith("emk_")
        assert len(secret) == 4 + 43  # 256 bits, six of them a letter
    hashes = {hashlib.sha256(secret.encode()).hexdigest() for secret in secrets}
    for column in ("hash", "name", "scopes"):
        rows = ask(any_url, f"SELECT count({column}) FROM em_token")
        assert rows == 20
    found = ask(any_url, "SELECT min(hash) FROM em_token")
    assert found in hashes


def test_whoever_shows_a_secret_is_its_user(accounts: Accounts) -> None:
    accounts.add_user("root", Role.ADMIN, weight=2.0, max_running=3, max_gpu_hours=1.5)
    secret = accounts.add_token("root", "laptop", {Scope.READ, Scope.WRITE})
    caller = accounts.caller(secret)
    assert caller.user == accounts.user("root")
    assert (caller.user.role, caller.user.max_running) == (Role.ADMIN, 3)
    assert caller.scopes == {Scope.READ, Scope.WRITE}
    (token,) = accounts.tokens("root")
    assert token.last_used is not None
    assert secret not in repr((token, caller))


def test_use_is_noted_once_a_minute(accounts: Accounts, any_url: str) -> None:
    secret = accounts.add_token("ann", "laptop", {Scope.READ})
    accounts.caller(secret)
    first = ask(any_url, "SELECT last_used FROM em_token")
    accounts.caller(secret)
    assert ask(any_url, "SELECT last_used FROM em_token") == first
    by_hand(any_url, "UPDATE em_token SET last_used = last_used - 61")
    accounts.caller(secret)
    assert ask(any_url, "SELECT last_used FROM em_token") >= first


def test_a_token_that_holds_no_more_is_refused(
    accounts: Accounts, any_url: str
) -> None:
    secret = accounts.add_token("ann", "laptop", {Scope.READ}, lasts_s=1000)
    accounts.caller(secret)
    by_hand(any_url, "UPDATE em_token SET expires = expires - 1000")
    with pytest.raises(TokenError, match="This token expired on 20"):
        accounts.caller(secret)
    other = accounts.add_token("ann", "desk", {Scope.READ})
    accounts.revoke("ann", "desk")
    since = accounts.tokens("ann")[1].revoked
    accounts.revoke("ann", "desk")
    assert accounts.tokens("ann")[1].revoked == since is not None
    with pytest.raises(TokenError, match="This token was revoked on 20"):
        accounts.caller(other)
    for wrong in ("", "emk_", other[:-1], "\ud800"):
        with pytest.raises(TokenError, match="nobody's"):
            accounts.caller(wrong)


def test_what_is_no_user_or_token_is_refused(accounts: Accounts) -> None:
    with pytest.raises(UserError, match="There is a user 'ann' already"):
        accounts.add_user("ann")
    for name in ("", "..", "a/b", "x" * 65, "-a", "a\n"):
        with pytest.raises(SpecError, match="name: expected letters"):
            accounts.add_user(name)
        with pytest.raises(SpecError, match="name: expected letters"):
            accounts.add_token("ann", name, {Scope.READ})
    with pytest.raises(SpecError) as error:
        accounts.add_user("x", weight=0.0, max_running=0, max_gpu_hours=float("nan"))
    assert len(error.value.problems) == 3
    with pytest.raises(SpecError, match="scopes: expected some of 'read'"):
        accounts.add_token("ann", "t", set())
    with pytest.raises(SpecError, match="lasts_s: expected seconds above 0"):
        accounts.add_token("ann", "t", {Scope.READ}, lasts_s=-1)
    with pytest.raises(UserError, match="no user 'eve'"):
        accounts.add_token("eve", "t", {Scope.READ})
    accounts.add_token("ann", "t", {Scope.READ})
    with pytest.raises(UserError, match="has a token named 't' already"):
        accounts.add_token("ann", "t", {Scope.READ})
    with pytest.raises(UserError, match="has no token named 't'"):
        accounts.revoke("bob", "t")
    assert [user.name for user in accounts.users()] == ["ann", "bob"]
