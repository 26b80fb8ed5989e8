"""No secret, in any form, in anything that is said."""

import subprocess
import sys
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge import masking
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.errors import StoreError
from evomerge.masking import hide_arguments, masked, masked_by_form, masked_url

MARKS = ("Zq7", "xJ4")
"""A planted secret begins and ends with these, so that no part of it may be seen."""
AWKWARD = "@/:%?#&=+'\"\\;,.-_~!*()[]{}|<>$^`é ab1"

secrets = st.text(AWKWARD, max_size=16).map(lambda text: text.join(MARKS))
unbroken = st.text(AWKWARD.replace(" ", ""), max_size=16).map(
    lambda text: text.join(MARKS)
)


def quoted_for_libpq(secret: str) -> str:
    return "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"


ESCAPED = (
    lambda s: f"postgresql://me:{quote(s, safe='')}@h:5432/db?sslmode=require",
    lambda s: f"postgresql+psycopg://me@realm:{quote(s, safe='')}@h/db",
    lambda s: f"postgres://:{quote(s, safe='')}@h/db",
    lambda s: f"postgresql://me@h/db?sslmode=require&password={quote_plus(s)}",
    lambda s: f"postgresql:///db?sslpassword={quote(s, safe='')}&host=/run/pg",
    lambda s: f"sqlite:///x.db?key={quote_plus(s)}",
    lambda s: f"nonsense://me:{quote(s, safe='')}@",
    lambda s: f"https://{quote(s, safe='')}@hub.example/org/model",
)
WHOLE = (
    *ESCAPED,
    lambda s: f"postgresql://me:{s}@h/db",
    lambda s: f"me:{s}@h/db",
    lambda s: f"postgresql://me@h/db?pasword={quote_plus(s)}",  # misspelt
    lambda s: f"host=h password={quoted_for_libpq(s)} dbname=db",
    lambda s: f"host = h user = me password = {quoted_for_libpq(s)}",
    lambda s: f"dbname=db sslpassword={quoted_for_libpq(s)}",
    lambda s: f"host=h password={s} dbname=db",  # not quoted, as people write it
)
IN_A_SENTENCE = (
    *ESCAPED,
    lambda s: f"postgresql://me:{s}@h/db",
    lambda s: f"PGPASSWORD={s} psql",
    lambda s: f"hf_token={s}",
    lambda s: f"Authorization: Bearer {quote(s, safe='')}0123456789",
)


@given(secret=secrets, form=st.sampled_from(WHOLE))
def test_a_url_or_connection_string_is_shown_without_its_secret(secret, form) -> None:
    shown = masked_url(form(secret))
    assert not any(mark in shown for mark in MARKS), shown
    assert masked_url(shown) == shown


@given(secret=unbroken, form=st.sampled_from(IN_A_SENTENCE), as_repr=st.booleans())
def test_a_sentence_is_shown_without_a_secret(secret, form, as_repr) -> None:
    said = repr(form(secret)) if as_repr else form(secret)
    shown = masked_by_form(f"Cannot open {said}: see https://example.org/help.")
    assert not any(mark in shown for mark in MARKS), shown
    assert masked_by_form(shown) == shown


@given(secret=secrets.filter(lambda s: "'" not in s and "\\" not in s))
def test_quoted_values_are_hidden_whole(secret) -> None:
    for said in (
        f"host=h password='{secret}' dbname=x",
        str({"user": "me", "password": secret}),
        f'{{"api_key": "{secret}", "n": 1}}' if '"' not in secret else "",
    ):
        shown = masked_by_form(said)
        assert not any(mark in shown for mark in MARKS), shown


@given(secret=secrets, form=st.sampled_from(ESCAPED[:5]))
def test_what_a_url_held_is_hidden_wherever_it_turns_up_later(secret, form) -> None:
    masked_url(form(secret))
    for said in (secret, quote(secret, safe=""), quote_plus(secret)):
        shown = masked(f"It said: {said}")
        assert not any(mark in shown for mark in MARKS), shown
        assert not any(mark in str(StoreError(f"said {said}")) for mark in MARKS)
        failure = Failure(Cause.ENGINE, Blame.MACHINE, f"said {said}")
        assert not any(mark in f"{failure!r}{failure.to_json()}" for mark in MARKS)


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "HF_TOKEN", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"plain-{name.lower()}-1")
        assert masked(f"sent plain-{name.lower()}-1 to it") == "sent *** to it"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "plainly-said")
    monkeypatch.setenv("PWD", "/where/we/are")
    assert masked("plainly-said in /where/we/are") == "plainly-said in /where/we/are"


def test_tokens_of_hubs_are_hidden() -> None:
    assert masked("with hf_aBcDeFgHiJkLmNoPqRsT.") == "with hf_***."
    assert masked("hf_overrides and hf_transfer") == "hf_overrides and hf_transfer"


@pytest.mark.parametrize(
    "said",
    [
        "postgresql://me@host:5432/db?sslmode=require and sqlite:////data/x.db",
        "ssh://git@host/x, https://example.org:8080/a?page=2 and me@example.org",
        "eos_token='</s>' max_gen_toks=5 tokens: 7, key: weight, pad_token=None",
        "check the user and password in the URL, PGPASSWORD or ~/.pgpass.",
        "task_arithmetic(weight=0.5, density=0.3); a bearer token",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert masked_by_form(said) == said


def test_a_word_that_is_a_password_stays_in_data() -> None:
    masked_url("postgresql://me:small@h/db")
    assert masked("of small") == "of ***"
    assert masked("smaller, dismal") == "smaller, dismal"
    assert masked_by_form("small") == "small"


@given(secret=secrets)
def test_a_connection_string_is_hidden_whole_wherever_it_is_shown_again(
    secret: str,
) -> None:
    said = f"host=127.0.0.1 port=9 password={secret} dbname=db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_known", set())
        patch.setattr(masking, "_whole", {})
        masked_url(said)
        shown = masked(f"Error: Got unexpected extra argument ({said})")
    assert not any(mark in shown for mark in MARKS)


@pytest.mark.parametrize(
    "piece", ["://a:", "?key", "password=", "'password'", "hf_", "="]
)
def test_long_texts_take_no_time(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", set())
    began = time.process_time()
    masked(piece * (50_000 // len(piece)))
    masked_url(piece * (50_000 // len(piece)))
    assert time.process_time() - began < 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets us")
def test_lists_of_processes_show_a_command_line_without_its_secrets() -> None:
    program = (
        "import sys; from evomerge.masking import hide_arguments; hide_arguments();"
        "shown = open('/proc/self/cmdline').read().split(chr(0));"
        "print(shown, sys.argv, sys.orig_argv)"
    )
    words = ("run", "é.yaml", "--workers=2", "--db", "postgresql://me:Zq7@a/xJ4@h/db")
    more = ("--db=postgresql://h/db?password=Zq7xJ4&sslmode=require", "last")
    done = subprocess.run(
        [sys.executable, "-c", program, *words, *more], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not any(mark in done.stdout for mark in MARKS)
    assert (
        "'run', 'é.yaml', '--workers=2', '--db', 'postgresql://me:***@h/db"
        in done.stdout
    )
    assert "password=***&sslmode=require" in done.stdout
    assert "'last'" in done.stdout


def test_without_a_secret_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["evomerge", "run", "--trials=3", "x.yaml"]
    monkeypatch.setattr(sys, "argv", list(words))
    hide_arguments()
    assert sys.argv == words
