"""Submissions of nothing in particular, and claims whose time has run out."""

from __future__ import annotations

from typing import Any

from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.submission import Submission
from support.searched import by_hand


def bundle(text: str = "name: x\n", **files: bytes) -> Bundle:
    """Return a bundle of a study file and more files."""
    return Bundle({"study.yaml": text.encode(), **files})


def submission(name: str, **changes: Any) -> Submission:
    """Return a submission whose study is called as its job."""
    chosen = {"study": name, "bundle": bundle(f"name: {name}\n"), **changes}
    return Submission(name=name, **chosen)


def run_out(url: str) -> None:
    """Let every claim run out, as if nobody had given a sign of life for long."""
    by_hand(url, "UPDATE em_job SET claim_until = claim_until - 100")


def due_now(url: str) -> None:
    """Let every pause between two starts be over."""
    by_hand(url, "UPDATE em_job SET not_before = not_before - 100")
