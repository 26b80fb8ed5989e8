"""What the page says, without a browser: everything told is there, and only text."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from support.watched import attempt, front_row, job, study, trial, worker

from evomerge.service.page.render import shell, studies_part, study_part, workers_part
from evomerge.service.page.view import (
    FAULTS_SHOWN,
    TRIALS_SHOWN,
    Progress,
    Study,
    Watched,
    actions,
    crew,
    log_end,
    progress,
)
from evomerge.store.queue.values import JobEvent, JobState

EVIL = "<script>alert(1)</script>\" onload='x' javascript:{{7*7}}"
VOID = {"meta", "link", "input", "line", "circle", "polyline", "br"}


class Read(HTMLParser):
    """Text, tags and attributes of a page; every tag that was opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


STRANGE = worker(
    EVIL,
    host=EVIL,
    address=EVIL,
    study=EVIL,
    state=EVIL,
    since=EVIL,
    resources={EVIL: EVIL},
)


def evil_page() -> Watched:
    """A job in which every text of a stranger is markup."""
    values = {EVIL: 0.5}
    rows = [
        trial(0, values=values, label=EVIL),
        trial(1, values={}, state="failed", failure=EVIL),
    ]
    told = Study(
        stages=[
            {
                "name": EVIL,
                "state": EVIL,
                "trials": 1,
                "allowed": 2,
                "front_size": 1,
                "best": [{"objective": EVIL, "value": 1.0, "trial": 0}],
            }
        ],
        status={
            "used": EVIL,
            "faults": 1,
            "workers": EVIL,
            "aside": [EVIL],
            "trials": 1,
            "allowed": 4,
            "best": [],
        },
        front=[front_row(0, values, label=EVIL)],
        trials=rows,
        attempts=[attempt(1, worker=EVIL, failure=EVIL)],
    )
    event = JobEvent(1, EVIL, EVIL, {EVIL: EVIL})
    asked = job(EVIL, JobState.WAITING, why=EVIL, user=EVIL, due=EVIL)
    return Watched(asked, told, [event], log_end(EVIL.encode()))


def test_everything_is_told_of_a_job() -> None:
    rows = [trial(n) for n in range(12)]
    told = study(rows, attempts=[attempt(5)])
    told.status["workers"] = "3 of 4 workers, waiting for a GPU"
    event = JobEvent(1, "2026-11-30T12:00:00+00:00", "supervisor_lost", {"by": "one"})
    page = Read(study_part(Watched(job(), told, [event], "line one")))
    for text in (
        *("ann/small", "running", "12 of 40 trials", "math 0.9091 (trial 3)"),
        *("2026-11-30 12:00:00 UTC", "worker lost: its machine was lost"),
        *("supervisor lost", "by one", "line one", "worker-2", "3 of 4 workers"),
    ):
        assert text in page.text
    (bar,) = page.all("progress")
    assert (bar["value"], bar["max"]) == ("12", "40")
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1", *["h2"] * 6]


def test_a_job_that_has_not_begun_says_so() -> None:
    page = Read(study_part(Watched(job(state=JobState.QUEUED), Study())))
    for text in ("Nothing was scored yet", "There is no trial yet", "No attempt has"):
        assert text in page.text
    assert page.all("svg") == []


def test_texts_of_strangers_are_shown_and_never_obeyed() -> None:
    html = study_part(evil_page())
    html += studies_part([(evil_page().job, Progress(1, None, (EVIL,)))], 2)
    html += workers_part([STRANGE])
    page = Read(html)
    assert page.all("script") == []
    assert not [a for _, attributes in page.tags for a in attributes if a[:2] == "on"]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "49" not in page.text.replace("0.49", "")
    links = [link["href"] or "" for link in page.all("a")]
    assert all(link[:1] in "/?" and link[:2] != "//" for link in links)


def test_nothing_of_the_page_needs_what_its_policy_forbids() -> None:
    for html in (shell(), study_part(evil_page())):
        page = Read(html)
        for tag, attributes in page.tags:
            assert "style" not in attributes, tag
            assert tag not in ("style", "img", "iframe", "base")
        sources = [each.get("src") or each.get("href") or "" for _, each in page.tags]
        assert not [source for source in sources if "//" in source]
        assert all(script["src"] == "/page/page.js" for script in page.all("script"))


def test_secrets_are_not_shown() -> None:
    secret = "postgresql://me:s3cr3t-word@db/x"
    found = job(why=f"cannot reach {secret}", state=JobState.WAITING)
    event = JobEvent(1, "", "failed", {"why": secret})
    html = study_part(Watched(found, study(), [event], log_end(secret.encode())))
    assert "s3cr3t-word" not in html
    assert html.count("***") == 3


def test_controls_and_pictures_have_names() -> None:
    page = Read(shell())
    (field,) = page.all("input")
    assert field["id"] in [label["for"] for label in page.all("label")]
    (html,) = page.all("html")
    assert html["lang"] == "en"
    page = Read(study_part(Watched(job(), study([trial(0)]))))
    titles = {title.get("id") for title in page.all("title")}
    assert all(svg["aria-labelledby"] in titles for svg in page.all("svg"))
    assert all(bar["aria-label"] for bar in page.all("progress"))
    scrolled = [box for box in page.all("div") if box.get("class") == "scroll"]
    assert scrolled
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in scrolled)
    assert len(page.all("caption")) == len(page.all("table"))


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (JobState.RUNNING, ("pause", "cancel")),
        (JobState.PAUSED, ("resume", "cancel")),
        (JobState.FAILED, ("resume",)),
        (JobState.FINISHED, ()),
    ],
)
def test_what_may_be_asked_follows_the_state(
    state: JobState, asked: tuple[str, ...]
) -> None:
    assert actions(state) == asked
    page = Read(study_part(Watched(job(state=state), Study())))
    assert tuple(b["data-action"] for b in page.all("button")) == asked


def test_long_lists_are_cut_and_the_rest_can_be_reached() -> None:
    rows = [trial(n) for n in range(200)]
    told = study(rows, attempts=[attempt(n) for n in range(50)])
    found = Watched(job(), told)
    assert [row["number"] for row in found.latest][:2] == [199, 198]
    assert len(found.latest) == TRIALS_SHOWN
    assert len(found.faults) == FAULTS_SHOWN
    assert 'href="?before=150"' in study_part(found)
    last = Watched(job(), told, before=50)
    assert [row["number"] for row in last.latest] == list(range(49, -1, -1))
    assert last.earlier is None
    assert "Latest trials" in study_part(last)


def test_the_page_of_a_huge_study_stays_small() -> None:
    told = study([trial(n) for n in range(10_000)])
    assert len(study_part(Watched(job(), told))) < 250_000


def test_progress_is_told_against_the_budget_there_is() -> None:
    status = {"trials": 3, "allowed": 8, "best": []}
    assert progress(job(), status) == Progress(3, 8, ())
    assert progress(job(budget={"trials": 16}), status).allowed == 16
    assert progress(job(), {}) == Progress(0, None, ())
    stage = {"trials": 2, "allowed": 4, "best": []}
    assert progress(job(), {}, [stage, stage]) == Progress(4, 8, ())


def test_workers_are_told_by_what_they_did() -> None:
    done = attempt(1, worker="a", failure=None, end="scored")
    later = "2026-11-30T13:00:00+00:00"
    now = attempt(3, worker="c", ended=None, end="running", failure=None)
    rows = [done, attempt(2, worker="b", ended=later), now, attempt(4, worker="a")]
    assert [
        (hand.worker, hand.now, hand.attempts, hand.failed) for hand in crew(rows)
    ] == [
        ("c", 3, 1, 0),
        ("b", None, 1, 1),
        ("a", None, 2, 1),
    ]


def test_a_log_is_shown_from_its_last_whole_lines() -> None:
    text = b"".join(b"line %06d\n" % n for n in range(5_000))
    lines = log_end(text).splitlines()
    assert lines[-1] == "line 004999"
    assert all(len(line) == 11 for line in lines)
    assert 500 < len(lines) < 2000
    assert log_end(b"\x1b[31mred\x1b[0m \xff") == "[31mred[0m \ufffd"
