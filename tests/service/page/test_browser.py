"""The page in a real browser: it logs in, follows, asks first, obeys no stranger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.browsers import DESKTOP, PHONE, NoBrowserError, chromium
from support.jobs import submission
from support.searched import EVENTFUL, by_hand, search_small
from support.services import Service, serving

from evomerge.store.queue.job_queue import open_queue

pytestmark = pytest.mark.xdist_group("browser")

RUN = "document.title='owned'"
EVIL = f'<img src=x onerror="{RUN}"><script>{RUN}</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except NoBrowserError as error:
        pytest.skip(f"no browser for the page: {error}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("browser")
    url = f"sqlite:///{folder}/jobs.db"
    with serving(url, folder / "spool") as made:
        queue = open_queue(url)
        queue.submit("ann", submission("shown", study="small"))
        queue.submit("ann", submission("asked"))
        queue.close()
        search_small(url, folder, EVENTFUL)
        yield made


class Tab:
    """A tab of the browser, and everything in it that went wrong or elsewhere."""

    def __init__(self, browser: Any, service: Service, **options: Any) -> None:
        self.context = browser.new_context(viewport=DESKTOP, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.service = service
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, message: Any) -> None:
        # What the service refuses, browsers tell as an error: that is asked for here.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(message.text)

    def open(self, path: str = "/", who: str | None = "ann") -> Any:
        self.page.goto(self.service.url + path)
        if who is not None:
            self.page.get_by_label("Token").fill(self.service.tokens[who])
            self.page.keyboard.press("Enter")
            self.page.locator("main h1").wait_for()
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
        assert all(url.startswith(self.service.url) for url in self.asked)
        assert not [url for url in self.asked if "emk_" in url]


@pytest.fixture
def tab(browser: Any, service: Service) -> Iterator[Tab]:
    made = Tab(browser, service)
    yield made
    made.close()


def test_who_logs_in_sees_their_studies_and_follows_one(tab: Tab) -> None:
    page = tab.open()
    assert page.title() == "Studies – evomerge"
    page.get_by_role("link", name="ann/shown").click()
    page.get_by_role("heading", name="ann/shown").wait_for()
    assert page.get_by_role("img").first.is_visible()
    assert page.get_by_text("8 of 8 trials").is_visible()
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings == ["Front", "Workers", "Trials", "Faults", "Events", "Log"]
    assert not page.get_by_label("Token").is_visible()


def test_a_wrong_token_is_told_and_not_kept(tab: Tab) -> None:
    page = tab.open(who=None)
    for wrong in ("emk_nobody", "no\u00ebl"):
        page.get_by_label("Token").fill(wrong)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.get_by_role("main").inner_text() == ""


def test_what_changes_shows_by_itself_and_focus_stays(tab: Tab) -> None:
    page = tab.open("/studies/ann/asked")
    page.locator("#do-cancel").focus()
    by_hand(tab.service.db, "UPDATE em_job SET why = 'new words' WHERE name = 'asked'")
    page.get_by_text("new words").wait_for()
    assert page.evaluate("document.activeElement.id") == "do-cancel"


def test_a_job_is_cancelled_only_when_confirmed(tab: Tab) -> None:
    page = tab.open("/studies/ann/asked")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="No").click()
    assert tab.service.state("asked") == "queued"
    page.get_by_role("button", name="Pause").click()
    assert "Pause ann/asked?" in page.get_by_role("dialog").inner_text()
    page.get_by_role("button", name="Yes").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert tab.service.state("asked") == "paused"
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Yes").click()
    page.get_by_role("button", name="Pause").wait_for()
    assert tab.service.state("asked") == "queued"


def test_logging_out_forgets_token_and_data(tab: Tab) -> None:
    page = tab.open()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    assert "ann/shown" not in page.content()
    page.reload()
    page.get_by_label("Token").wait_for()


def test_words_of_strangers_are_shown_and_never_run(tab: Tab) -> None:
    quoted = EVIL.replace("'", "''")
    by_hand(tab.service.db, f"UPDATE em_job SET why = '{quoted}' WHERE name = 'shown'")
    page = tab.open("/studies/ann/shown")
    page.get_by_text("<script>").first.wait_for()
    assert page.title() == "ann/shown – evomerge"
    by_hand(tab.service.db, "UPDATE em_job SET why = NULL WHERE name = 'shown'")


def test_a_script_that_got_into_the_page_would_not_run(tab: Tab) -> None:
    page = tab.open()
    page.evaluate(
        "() => { const s = document.createElement('script');"
        "s.textContent = \"document.title = 'owned'\"; document.body.append(s); }"
    )
    assert page.title() != "owned"
    told = [text for text in tab.wrong if "Content Security Policy" in text]
    assert told
    tab.wrong.clear()


def test_a_phone_scrolls_one_way(browser: Any, service: Service) -> None:
    tab = Tab(browser, service, has_touch=True, is_mobile=True)
    tab.page.set_viewport_size(PHONE)
    page = tab.open()
    for path in ("/", "/workers", "/studies/ann/shown"):
        page.goto(service.url + path)
        page.locator("main h1").wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["width"], path
        for box in page.locator("button:visible").all():
            assert box.bounding_box()["height"] >= 44
    tab.close()


@pytest.mark.long
def test_letters_stand_out_in_light_and_in_dark(tab: Tab) -> None:
    page = tab.open("/studies/ann/shown")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours = page.evaluate(COLOURS)
        assert len(colours) > 50
        for letters, paper in {tuple(pair) for pair in colours}:
            assert contrast(letters, paper) >= 4.5, (scheme, letters, paper)


COLOURS = """() => [...document.querySelectorAll("main *")]
  .filter((e) => e.innerText && e.children.length === 0)
  .map((e) => {
    let behind = e;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)"
           && behind.parentElement) behind = behind.parentElement;
    const paper = getComputedStyle(behind).backgroundColor;
    return [getComputedStyle(e).color, paper];
  })"""
"""Of the letters of each element, and of what is behind them."""


def contrast(one: str, two: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    high, low = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.long
def test_a_service_that_is_away_is_told_and_waited_for(
    browser: Any, service: Service
) -> None:
    tab = Tab(browser, service)
    page = tab.open()
    tab.context.set_offline(True)
    page.get_by_text("does not answer").wait_for()
    tab.context.set_offline(False)
    page.get_by_text("does not answer").wait_for(state="detached")
    assert page.get_by_text("ann/shown").is_visible()
    tab.close()
