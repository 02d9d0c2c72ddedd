"""Calls the running service with the client that openapi-python-client generated."""

import os
from collections.abc import Callable
from datetime import datetime, timezone
from uuid import UUID

from poem_hanko_client import AuthenticatedClient, Client
from poem_hanko_client.api.greeting import (
    get_greeting,
    get_protected_greeting,
    get_verified_greeting,
)
from poem_hanko_client.api.session import get_me
from poem_hanko_client.models import EmailAddress, Greeting, Problem, SessionView
from poem_hanko_client.types import UNSET

API = os.environ["API"]
TOKEN = os.environ["TOKEN"]
COOKIE = os.environ["COOKIE"]

anonymous = Client(base_url=API)
bearer = AuthenticatedClient(base_url=API, token=TOKEN)
# The operations ask for an `AuthenticatedClient`, which can carry any header.
with_cookie = AuthenticatedClient(
    base_url=API, token=COOKIE, prefix="", auth_header_name="Cookie"
)
no_credentials = AuthenticatedClient(
    base_url=API, token="none", prefix="", auth_header_name="X-Unused"
)


def public_greeting() -> None:
    greeting = get_greeting.sync(client=anonymous)
    assert isinstance(greeting, Greeting), greeting
    assert greeting.message == "Poem x Hanko!"


def protected(client: AuthenticatedClient) -> None:
    greeting = get_protected_greeting.sync(client=client)
    assert isinstance(greeting, Greeting), greeting
    assert greeting.message == "Hello from protected route!"


def me_with_bearer() -> None:
    session = get_me.sync(client=bearer)
    assert isinstance(session, SessionView), session
    assert isinstance(session.user_id, UUID)
    assert isinstance(session.email, EmailAddress)
    assert session.email.address == "ada@example.com"
    assert session.username is UNSET
    assert session.expires_at > datetime.now(timezone.utc)
    assert session.claims.additional_properties == {}


def me_with_cookie() -> None:
    session = get_me.sync(client=with_cookie)
    assert isinstance(session, SessionView), session
    assert session.username == "grace"


def refused(client: AuthenticatedClient, slug: str) -> None:
    response = get_me.sync_detailed(client=client)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert isinstance(response.parsed, Problem), response.parsed
    assert response.parsed.status == 401
    assert response.parsed.type_ == f"/problems/{slug}"


def guarded() -> None:
    unverified = AuthenticatedClient(base_url=API, token=os.environ["UNVERIFIED"])
    response = get_verified_greeting.sync_detailed(client=unverified)
    assert response.status_code == 403
    assert isinstance(response.parsed, Problem), response.parsed
    assert response.parsed.type_ == "/problems/insufficient-permission"


CHECKS: dict[str, Callable[[], None]] = {
    "/ without credentials": public_greeting,
    "/protected with a Bearer token": lambda: protected(bearer),
    "/me with a Bearer token": me_with_bearer,
    "/protected with the cookie": lambda: protected(with_cookie),
    "/me with the cookie": me_with_cookie,
    "401 without credentials": lambda: refused(no_credentials, "missing-credentials"),
    "401 with a bad token": lambda: refused(
        AuthenticatedClient(base_url=API, token="not.a.token"), "invalid-token"
    ),
    "403 of a guard": guarded,
}

for name, check in CHECKS.items():
    try:
        check()
    except BaseException:
        print(f"openapi-python-client: {name}: failed", flush=True)
        raise
print(f"openapi-python-client: {len(CHECKS)} checks passed")
