"""Routes of exports: ask for a model folder, see how it stands, fetch it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse

from evomerge.service.http import bodies
from evomerge.service.http.asking import Asking, answer
from evomerge.service.http.bodies import Name
from evomerge.service.http.studies import Owner, address

router = APIRouter(prefix="/v1/studies/{name}/exports", tags=["exports"])

Id = Annotated[str, Path(alias="id", pattern=r"^[1-9][0-9]{0,8}$")]
_TAR = {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}


@router.post("", response_model=bodies.ExportBody, status_code=202)
def ask_for(
    name: Name,
    ask: Asking,
    sent: bodies.ExportAsked | None = None,
    owner: Owner = None,
) -> Response:
    """Ask for a trial to be written as a model folder; the same again is the same."""
    asked = sent or bodies.ExportAsked()
    job = address(name, owner)
    found = ask(lambda d: d.export(job, asked.trial, is_scored=asked.is_scored))
    return answer(found, 202)


@router.get("", response_model=bodies.ExportsBody)
def every(name: Name, ask: Asking, owner: Owner = None) -> Response:
    """Return the exports of a job, oldest first."""
    found = ask(lambda desk: desk.exports(address(name, owner)))
    return answer({"exports": list(found)})


@router.get("/{id}", response_model=bodies.ExportBody)
def one(name: Name, number: Id, ask: Asking, owner: Owner = None) -> Response:
    """Return how an export stands."""
    return answer(ask(lambda desk: desk.export_state(address(name, owner), number)))


@router.get(
    "/{id}/files",
    response_class=FileResponse,
    responses={200: {"content": _TAR}, 206: {"content": _TAR, "description": "Part"}},
)
def files(name: Name, number: Id, ask: Asking, owner: Owner = None) -> Response:
    """Send the archive of a finished export: a plain tar, by ranges if so asked."""
    file = ask(lambda desk: desk.archive(address(name, owner), number))
    return FileResponse(file, media_type="application/x-tar")
