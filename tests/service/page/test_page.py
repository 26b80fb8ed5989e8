"""The page of a real service: who sees what, and what browsers are told to refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.jobs import submission
from support.searched import EVENTFUL, search_small
from support.services import Service, serving

from evomerge.service.page.routes import ROWS
from evomerge.service.supervisor import LOG
from evomerge.store.queue.job_queue import open_queue


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a study of ann's in which faults happened; nothing is run."""
    folder = tmp_path_factory.mktemp("page")
    url = f"sqlite:///{folder}/jobs.db"
    with serving(url, folder / "spool") as made:
        queue = open_queue(url)
        queue.submit("ann", submission("shown", study="small"))
        queue.close()
        search_small(url, folder, EVENTFUL)
        log = folder / "spool" / "ann" / "shown" / LOG
        log.parent.mkdir(parents=True)
        log.write_text("the first line\n<b>the last</b>\n")
        yield made


def part(service: Service, path: str, who: str = "ann") -> str:
    answer = service.call("GET", f"/page/parts/{path}", who=who)
    assert answer.status == 200, answer.text
    return answer.text.decode()


def test_the_frame_is_the_same_for_everybody_and_holds_no_data(
    service: Service,
) -> None:
    paths = ("/", "/workers", "/studies/ann/secret-name")
    frames = [service.call("GET", path, who=None) for path in paths]
    assert {frame.status for frame in frames} == {200}
    assert len({frame.text for frame in frames}) == 1
    assert b"secret-name" not in frames[0].text


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/page/page.css", "/page/icon.svg"]
)
def test_browsers_are_told_to_run_nothing_else(service: Service, path: str) -> None:
    answer = service.call("GET", path, who=None)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy.replace("https", "")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["studies", "workers", "studies/ann/one"])
@pytest.mark.parametrize("who", [None, "emk_nobody"])
def test_nothing_is_told_without_a_token(
    service: Service, path: str, who: str | None
) -> None:
    answer = service.call("GET", f"/page/parts/{path}", who=who)
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_token_in_a_cookie_or_an_address_is_none(service: Service) -> None:
    token = service.tokens["ann"]
    for path, headers in (
        ("/page/parts/studies", {"Cookie": f"token={token}"}),
        (f"/page/parts/studies?token={token}", {}),
    ):
        answer = service.call("GET", path, who=None, headers=headers)
        assert answer.status == 401


def test_a_job_is_told_to_its_owner_and_operators_alone(service: Service) -> None:
    queue = open_queue(service.db)
    queue.submit("bob", submission("bobs-study"))
    queue.close()
    assert "bobs-study" in part(service, "studies", "bob")
    assert "bobs-study" in part(service, "studies", "root")
    assert "bobs-study" not in part(service, "studies", "ann")
    assert "bob/bobs-study" in part(service, "studies/bob/bobs-study", "root")
    path = "/page/parts/studies/bob/bobs-study"
    assert service.call("GET", path, who="ann").status == 404


def test_what_has_not_changed_is_not_sent_again(service: Service) -> None:
    first = service.call("GET", "/page/parts/workers")
    tag = first.headers["etag"]
    again = service.call("GET", "/page/parts/workers", headers={"If-None-Match": tag})
    assert (again.status, again.text) == (304, b"")
    assert first.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        *("/page/nothing.js", "/page/../app.py", "/page/..%2fapp.py", "/page/"),
        *("/studies/ann", "/page/parts/studies/ann/no-such-job"),
    ],
)
def test_there_is_nothing_else(service: Service, path: str) -> None:
    assert service.call("GET", path).status == 404


def test_an_address_that_is_none_is_refused(service: Service) -> None:
    for path in ("studies?page=0", "studies/ann/a%20b", "studies/ann/x?before=x"):
        assert service.call("GET", f"/page/parts/{path}").status == 422


def test_the_description_of_the_api_leaves_the_page_out(service: Service) -> None:
    paths = service.call("GET", "/openapi.json", who=None).data["paths"]
    assert not [path for path in paths if "page" in path or path == "/"]


def test_everything_is_told_of_a_study(service: Service) -> None:
    html = part(service, "studies/ann/shown")
    for text in (
        *("8 of 8 trials", "<svg", "Trials, newest first", "queued"),
        *("engine failed", "not finite", "submitted", "the first line"),
        *("&lt;b&gt;the last&lt;/b&gt;", 'data-action="cancel"'),
    ):
        assert text in html
    listed = part(service, "studies")
    for text in ("ann/shown", "8 of 8 trials", "queued"):
        assert text in listed


def test_what_is_asked_of_a_job_shows(service: Service) -> None:
    assert service.call("POST", "/v1/studies/shown/pause").status == 200
    html = part(service, "studies/ann/shown")
    assert "pause wanted" in html
    assert 'data-action="resume"' in html
    assert service.call("POST", "/v1/studies/shown/resume").status == 200
    assert 'data-action="pause"' in part(service, "studies/ann/shown")


def test_many_studies_stand_on_several_pages(service: Service) -> None:
    queue = open_queue(service.db)
    for number in range(ROWS + 5):
        queue.submit("root", submission(f"many-{number:03}"))
    queue.close()
    first, second = (part(service, f"studies?page={n}", "root") for n in (1, 2))
    assert "many-054" in first
    assert "many-000" not in first
    assert 'href="/?page=2"' in first
    assert "many-000" in second
