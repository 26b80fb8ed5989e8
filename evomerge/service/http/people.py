"""Routes of who may ask: the one who asks, tokens, users."""

from __future__ import annotations

from fastapi import APIRouter, Response

from evomerge.client.verbs import NewToken, NewUser
from evomerge.service.http import bodies
from evomerge.service.http.asking import Asking, answer
from evomerge.service.http.bodies import Name

router = APIRouter(prefix="/v1", tags=["users and tokens"])


@router.get("/me", response_model=bodies.MeBody)
def me(ask: Asking) -> Response:
    """Return who asks, and who answers."""
    return answer(ask(lambda desk: desk.me()))


@router.get("/tokens", response_model=bodies.TokensBody)
def tokens(ask: Asking) -> Response:
    """Return one's own tokens, never their secrets."""
    return answer({"tokens": list(ask(lambda desk: desk.tokens()))})


@router.post("/tokens", response_model=bodies.SecretBody, status_code=201)
def add_token(sent: bodies.TokenAsked, ask: Asking) -> Response:
    """Make a token for oneself; its secret is shown this once."""
    new = NewToken(sent.name, frozenset(sent.scopes), sent.lasts_s)
    secret = ask(lambda desk: desk.add_token(new))
    return answer({"secret": secret}, 201)


@router.delete("/tokens/{name}", status_code=204, response_class=Response)
def revoke_token(name: Name, ask: Asking) -> Response:
    """Make one of one's own tokens hold no more; idempotent."""
    ask(lambda desk: desk.revoke_token(name))
    return Response(status_code=204)


@router.get("/users", response_model=bodies.UsersBody)
def users(ask: Asking) -> Response:
    """Return every user; for admins."""
    return answer({"users": list(ask(lambda desk: desk.users()))})


@router.post("/users", response_model=bodies.UserBody, status_code=201)
def add_user(sent: bodies.UserAsked, ask: Asking) -> Response:
    """Add a user; for admins."""
    new = NewUser(**sent.model_dump())
    return answer(ask(lambda desk: desk.add_user(new)), 201)
