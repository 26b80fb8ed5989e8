"""Secrets never shown: passwords, tokens and keys, in whatever form they come.

Two ways together. What looks like a secret is hidden wherever it stands: in a URL, in
a connection string of PostgreSQL, in a header, as a token of a hub. And what is known
to be one, because it came in a database's URL or in an environment variable, is hidden
by its content, so that no library shows it in a form nobody thought of.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

_NAME = (
    r"[\w.-]*(?:passw(?:or)?d|passphrase|secret|credential|(?:api|auth|access|private)"
    r"_?key)[\w.-]*|(?:[\w.-]*(?:hf|hub|auth|access|api|ray|session|refresh)[_-]?)?token"
)
_IS_SECRET = re.compile(rf"(?i)(?:{_NAME})")
_QUOTED = r"'(?:[^'\\]|\\.)*(?:'|\Z)|\"(?:[^\"\\]|\\.)*(?:\"|\Z)"

# Each takes all that may be secret, and no two ways through a text: time is linear.
_USER_INFO = re.compile(r"(?P<head>://[^\s/?#:'\"\[]*:)(?P<rest>\S*)")
_WHOLE_USER_INFO = re.compile(r"(?s)(?P<head>(?:://|\A(?!.*://))[^/?#:]*:)(?P<rest>.*)")
_USER_TOKEN = re.compile(
    r"(?i)(?P<head>(?:https?|git|hf|ftps?|ray|wss?)://)[^\s/?#:@]+(?=@)"
)
"""A user alone is a token, where the scheme is not a database's."""
_FORMS = (
    re.compile(
        r"(?i)(?P<head>[?&][^?=&\s]*(?:pass|pwd|secret|token|key|auth|cred|sig)"
        r"[^?=&\s]*=)(?P<rest>[^&\s]*)"
    ),
    re.compile(
        rf"(?is)(?P<head>(?<![\w?&%.-])(?:{_NAME})\s*=\s*)"
        rf"(?P<rest>{_QUOTED}|(?:\\.|\S)+)"
    ),
    re.compile(rf"(?is)(?P<head>(['\"])(?:{_NAME})\2\s*:\s*)(?P<rest>{_QUOTED})"),
    re.compile(r"(?i)(?P<head>\b(?:bearer|basic)\s+)(?P<rest>[\w.~+/=%-]{12,})"),
    re.compile(r"(?P<head>\b(?:hf|api_org)_)(?P<rest>[A-Za-z0-9]{16,})"),
    re.compile(r"(?P<head>\bemk_)(?P<rest>[\w-]{16,})"),  # of a service of ours
)
_PLAIN = re.compile(r"[A-Za-z0-9.-]*\Z")
"""What none of these forms can stand in: most words of long tables."""
_CLOSING = re.compile(r"['\")\],.;:]*\Z")
"""What follows a secret in a sentence rather than being of it."""

_HARMLESS = frozenset(
    {
        *("application_name", "channel_binding", "client_encoding", "connect_timeout"),
        *("database", "dbname", "gssencmode", "host", "hostaddr", "keepalives"),
        *("keepalives_count", "keepalives_idle", "keepalives_interval", "options"),
        *("load_balance_hosts", "passfile", "port", "require_auth", "service"),
        *("sslcert", "sslkey", "sslmode", "sslnegotiation", "sslrootcert", "sslsni"),
        *("target_session_attrs", "tcp_user_timeout", "user"),
    }
)
"""What a connection string says in the open; whatever else it holds is not shown."""
_PAIR = re.compile(
    r"(?s)(?P<name>[\w.-]+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*(?:'|\Z)|(?:\\.|\S)*)|\S+"
)
_SHORTEST = 6  # of an environment variable that is taken for a secret
_known: set[str] = set()
_whole: dict[str, str] = {}
"""URLs and connection strings as they were given, and as they are shown."""


def names_a_secret(name: str) -> bool:
    """Tell whether a key, an option or a variable of this name holds a secret."""
    return _IS_SECRET.fullmatch(name) is not None


def masked(text: str) -> str:
    """Hide every secret in a text."""
    for given in sorted(_whole, key=len, reverse=True):
        text = text.replace(given, _whole[given])
    for secret in sorted({*_known, *_of_environment()}, key=len, reverse=True):
        if secret not in text:
            continue
        # Only where it stands alone: "***rvice" would tell a password of two letters.
        alone = rf"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{{2}})){re.escape(secret)}(?!\w)"
        text = re.sub(alone, HIDDEN, text)
    return masked_by_form(text)


def masked_by_form(text: str) -> str:
    """Hide what looks like a secret; leaves alone a word that happens to be one.

    So a study whose name is somebody's password keeps its name in data for programs.
    """
    if _PLAIN.match(text):
        return text
    text = _USER_INFO.sub(lambda m: _user_info(m, learn=False), text)
    text = _USER_TOKEN.sub(rf"\g<head>{HIDDEN}", text)
    for form in _FORMS:
        text = form.sub(_value, text)
    return text


def masked_url(url: str) -> str:
    """Hide the secrets of a text that is one URL or connection string, and learn them.

    From here on ``masked`` hides them wherever they turn up, escaped or not.
    """
    shown = _WHOLE_USER_INFO.sub(_user_info, url)
    if "://" in shown:
        front, mark, query = shown.partition("?")
        shown = front + mark + "&".join(map(_parameter, query.split("&")))
    elif any(names_a_secret(m["name"] or "") for m in _PAIR.finditer(shown)):
        shown = _PAIR.sub(_pair, shown)
    shown = masked_by_form(shown)
    if shown != url:
        _whole[url] = shown
    return shown


def hide_arguments() -> None:
    """Hide the secrets of this process's command line, from others and from libraries.

    Lists of processes show it, and Ray records it. It can be overwritten on Linux only.
    """
    for words in (sys.argv, sys.orig_argv):
        words[:] = [masked_url(word) for word in words]
    try:
        shown = Path("/proc/self/cmdline").read_bytes()
        # The name, in brackets, may hold anything. These are fields 48 and 49.
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    start, end = int(stat[45]), int(stat[46])
    if not start or ctypes.string_at(start, end - start) != shown:
        return
    for word in shown.split(b"\0"):
        hidden = masked_url(os.fsdecode(word)).encode()
        if hidden != word:
            ctypes.memmove(start, hidden.ljust(len(word))[: len(word)], len(word))
        start += len(word) + 1


def _user_info(found: re.Match[str], *, learn: bool = True) -> str:
    # Up to the last @: a password that was not escaped may hold any of : / ? # and @.
    secret, at, host = found["rest"].rpartition("@")
    if learn:
        _learn(secret)
    return found["head"] + (HIDDEN if at else "") + at + host


def _value(found: re.Match[str]) -> str:
    rest = found["rest"]
    if rest[:1] in {"'", '"'} and rest[0] == rest[-1]:
        return f"{found['head']}{rest[0]}{HIDDEN}{rest[0]}"
    closing = _CLOSING.search(rest)
    return found["head"] + HIDDEN + ("" if closing is None else closing[0])


def _parameter(text: str) -> str:
    name, is_set, value = text.partition("=")
    if not is_set or unquote_plus(name).lower() in _HARMLESS:
        return text
    _learn(value)
    return f"{name}={HIDDEN}"


def _pair(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if name is not None and name.lower() in _HARMLESS:
        return found[0]
    if name is None:  # the rest of a password with spaces that was not quoted
        _learn(found[0])
        return HIDDEN
    _learn(value)
    _learn(re.sub(r"\\(.)", r"\1", value.strip("'")))
    return f"{name}={HIDDEN}"


def _learn(secret: str) -> None:
    """Remember a secret in every form it may be shown in."""
    for form in {secret, unquote(secret), unquote_plus(secret)} - {HIDDEN}:
        if len(form) > 1:  # one letter would garble every message
            _known.update({form, quote(form, safe=""), quote(form), quote_plus(form)})


def _of_environment() -> Iterator[str]:
    """Give the secrets of this process's environment."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and names_a_secret(name):
            yield value
