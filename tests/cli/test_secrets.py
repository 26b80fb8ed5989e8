"""A planted secret is in no output of any command, whatever it is planted in."""

import logging
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.study_files import simulated_study, without_lines, write_study

from evomerge.cli.app import app

MARKS = ("Zq7", "xJ4")
secrets = st.text("@/:%?#&='\"\\ é1", max_size=8).map(lambda text: text.join(MARKS))

URLS = (
    lambda s: f"postgresql://me:{quote(s, safe='')}@127.0.0.1:9/db",
    lambda s: f"postgresql://me:{s}@127.0.0.1:9/db",
    lambda s: f"postgresql://me@127.0.0.1:9/db?password={quote(s, safe='')}",
    lambda s: f"postgresql://me@127.0.0.1:9/db?sslpasword={quote(s, safe='')}",
    lambda s: f"postgresql://me:{quote(s, safe='')}@h/db?host=h&port=x",
    lambda s: f"mysql://me:{quote(s, safe='')}@127.0.0.1/db",
    lambda s: f"sqlite:///x.db?password={quote(s, safe='')}",
    lambda s: f"host=127.0.0.1 port=9 password={s} dbname=db",
    lambda s: f"me:{s}@127.0.0.1:9/db",
)
ARGUMENTS = {
    "run": ("mine.yaml", "--in-process"),
    "resume": ("mine", "--in-process"),
    "check": ("mine.yaml", "--no-dry-run"),
    "export": ("mine", "out"),
    "delete": ("mine", "--yes"),
    "studies": (),
    "doctor": (),
}


def lines() -> list[tuple[str, ...]]:
    """Every command that opens a database."""
    found = []
    for name, command in app.commands.items():
        if any(option.name == "db" for option in command.params):
            found.append((name, *ARGUMENTS.get(name, ("mine",))))
    return [*found, ("db", "check"), ("db", "upgrade")]


def test_all_commands_are_meant() -> None:
    assert {line[0] for line in lines()} > {"run", "front", "trials", "attempts"}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=secrets,
    url=st.sampled_from(URLS),
    words=st.sampled_from(lines()),
    how=st.sampled_from(["--db", "--db=", "argument", "environment"]),
    as_json=st.booleans(),
)
def test_no_command_tells_the_password_of_its_database(
    call, here, models, monkeypatch, secret, url, words, how, as_json
) -> None:
    if not (here / "mine.yaml").exists():
        write_study(here / "mine.yaml", simulated_study(models))
    said = url(secret)
    ending = {
        "--db": ("--db", said),
        "--db=": (f"--db={said}",),
        "argument": (said,),  # the option's name was forgotten
        "environment": (),
    }[how]
    monkeypatch.setenv("EVOMERGE_DB", said if how == "environment" else "nothing")
    asked = ("--json",) if as_json and words[0] not in ("doctor",) else ()
    ended = call(*words, *asked, *ending)
    assert ended.code in (0, 2, 75), ended
    assert "Traceback" not in ended.err
    assert not any(mark in ended.out + ended.err for mark in MARKS), ended


def test_no_line_of_a_log_tells_a_secret(call, capsys: pytest.CaptureFixture) -> None:
    call("--verbose", "studies")
    log = logging.getLogger("evomerge.anything")
    log.warning("sent %s to %s", "hf_aBcDeFgHiJkLmNoPqRsT", "http://tok3n@hub/x")
    try:
        raise ValueError("password='Zq7 xJ4'")
    except ValueError:
        log.exception("it failed")
    said = capsys.readouterr().err
    assert "sent hf_*** to http://***@hub/x" in said
    assert "ValueError: password='***'" in said
    assert not any(mark in said for mark in MARKS)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("engine.options.hf_token", {"engine": {"options": {"hf_token": "hf_abc"}}}),
        (
            "tasks.one.options.api_key",
            {"tasks": {"one": {"options": {"api_key": "k"}}}},
        ),
        ("strategy.options.password", {"strategy": {"options": {"password": "pw"}}}),
        ("token", {"token": "abc"}),
    ],
)
def test_a_study_file_with_a_secret_is_refused_by_its_key(
    call, here, models, key: str, changes: dict
) -> None:
    study = simulated_study(models)
    for name, value in changes.items():
        more = value if isinstance(value, dict) else {}
        study[name] = {**(study.get(name) or {}), **more} if more else value
    write_study(here / "mine.yaml", study)
    ended = call("check", "mine.yaml", "--no-dry-run")
    assert ended.code == 2
    assert f"mine.yaml: {key}: expected no secret" in without_lines(ended.err)


def test_settings_that_only_sound_like_secrets_are_none(call, here, models) -> None:
    options = {"max_num_batched_tokens": 64, "tokenizer_mode": "auto"}
    study = simulated_study(models)
    study["engine"] = {**study["engine"], "options": options}
    write_study(here / "mine.yaml", study)
    assert "expected no secret" not in call("check", "mine.yaml", "--no-dry-run").err
