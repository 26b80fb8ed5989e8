"""Requests drawn from the API's description: no defect, answers as described."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.services import Service, serving

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
ENDS_IT = "/v1/drain"
MODES = list(schemathesis.GenerationMode)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("described")
    with serving(f"sqlite:///{folder}/jobs.db", folder / "spool") as found:
        found.submit("mine", {"name": "mine"})
        yield found


def operations(service: Service) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    schema.config.generation.update(modes=MODES)
    return [
        found.ok()
        for found in schema.get_all_operations()
        if found.ok().path != ENDS_IT
    ]


def ask(service: Service, case: Any, who: str) -> None:
    if case.query:
        case.query.pop("follow", None)  # would not end
    if "{name}" in case.operation.path and len(str(case.body)) % 2:
        case.path_parameters["name"] = "mine"  # one that is there
    shown = {"Authorization": f"Bearer {service.tokens[who]}"}
    answer = case.call(base_url=service.url, headers=shown, timeout=30)
    case.validate_response(answer, checks=CHECKS)


def draw(service: Service, examples: int) -> int:
    asked = 0
    for operation in operations(service):

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def drawn(case: Any) -> None:
            nonlocal asked
            asked += 1
            ask(service, case, "root" if asked % 2 else "ann")

        drawn()
    return asked


def test_a_few_requests_of_every_kind_are_answered_as_described(
    service: Service,
) -> None:
    assert len(operations(service)) >= 24
    assert draw(service, 3) >= 60


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_requests_of_every_kind_are_answered_as_described(
    service: Service,
) -> None:
    assert draw(service, 100) > 1500
    assert service.call("GET", "/readyz", who=None).status == 200
