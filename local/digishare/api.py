"""What Digishare answers: one request in, one answer out, no sockets. Thread-safe.

Beside the API's own behaviour this records what tests read: who minted what, which paths and hosts were called.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from local.digishare.campaigns import CampaignList
from local.digishare.faults import Fault, FaultQueue, Target
from local.digishare.model import (
    ALL_SCOPES,
    READ_SCOPE,
    YEAR_S,
    Answer,
    Call,
    Client,
    Mint,
    PersonalAccessToken,
    Request,
    Settings,
)
from local.digishare.pages import PATH as CAMPAIGNS_PATH
from local.digishare.queries import Invalid
from local.digishare.tokens import sign_access_token, token_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TOKEN_PATH = "/v1/oauth/token"  # noqa: S105 - a path
CAMPAIGNS = 250
TARGET_OF_PATH: dict[str, Target] = {TOKEN_PATH: "token", CAMPAIGNS_PATH: "campaigns"}


@dataclass(frozen=True)
class _Grant:
    scopes: tuple[str, ...]
    issued_at_epoch_s: float
    expires_at_epoch_s: float


class DigishareApi:
    """The API's state and behaviour; `server.FakeDigishare` puts it on a socket.

    Args:
        clients: who may mint.
        personal_access_tokens: valid from the start, without an expiry.
        clock: epoch seconds.
    """

    def __init__(
        self,
        *,
        clients: Iterable[Client] = (),
        personal_access_tokens: Iterable[PersonalAccessToken] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.RLock()
        self._clock = clock
        self._at_start = (tuple(clients), tuple(personal_access_tokens))
        self._grants: dict[str, _Grant] = {}
        self._faults = FaultQueue()
        self.reset()

    # --- what tests read and change ---------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget counts, faults, settings and campaigns; clients are as at the start. Tokens stay as they are."""
        with self._lock:
            self._mints: list[Mint] = []
            self._calls: list[Call] = []
            self._settings = Settings()
            # Not a secret: the same campaigns after each reset.
            self._campaigns = CampaignList(self._settings, random.Random(0), self._clock)  # noqa: S311
            self._campaigns.replace(CAMPAIGNS)
            self._faults.clear()
            clients, personal_access_tokens = self._at_start
            self.set_clients(clients)
            self.set_personal_access_tokens(personal_access_tokens)

    @property
    def mints(self) -> list[Mint]:
        with self._lock:
            return list(self._mints)

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    @property
    def requests_by_path(self) -> dict[str, int]:
        """Counts by method and path, such as `{"POST /v1/oauth/token": 2}`."""
        return dict(Counter(f"{call.method} {call.path}" for call in self.calls))

    @property
    def waiting_faults(self) -> dict[Target, list[str]]:
        return self._faults.names()

    @property
    def settings(self) -> Settings:
        return self._settings

    def configure(self, **changes: object) -> None:
        """Change some of the `Settings` by name; TypeError or ValueError if there is no such setting or value."""
        with self._lock:
            self._settings = replace(self._settings, **changes)  # type: ignore[arg-type] # names come over HTTP
            self._campaigns.settings = self._settings

    def set_clients(self, clients: Iterable[Client]) -> None:
        """Replace all clients; tokens that were issued to them stay valid."""
        with self._lock:
            self._clients = {client.client_id: client for client in clients}

    def set_personal_access_tokens(self, tokens: Iterable[PersonalAccessToken]) -> None:
        """Replace all personal access tokens; the earlier ones are refused from now on."""
        with self._lock:
            self._personal = {token_id(each.token): each for each in tokens}

    def revoke(self, identifier: str) -> bool:
        """Refuse this token (by its token id) from now on; False if there is none."""
        with self._lock:
            known = [self._grants.pop(identifier, None), self._personal.pop(identifier, None)]
            return any(known)

    def revoke_all(self) -> None:
        with self._lock:
            self._grants.clear()
            self._personal.clear()

    @property
    def campaign_statuses(self) -> dict[str, str | None]:
        """What a perfect reader of the list would know now; see `CampaignList.statuses`."""
        with self._lock:
            return self._campaigns.statuses()

    def replace_campaigns(self, count: int) -> None:
        """Begin a new list; see `CampaignList.replace`."""
        with self._lock:
            self._campaigns.replace(count)

    def change_campaigns(
        self, *, create: int = 0, change: Mapping[str, str] | None = None, delete: Iterable[str] = ()
    ) -> list[str]:
        """Change the list at one moment, and return the ids of the created campaigns.

        Args:
            create: how many.
            change: new statuses by id.
            delete: ids.

        Raises:
            KeyError: there is no such campaign; nothing is changed.
        """
        change, delete = dict(change or {}), set(delete)
        with self._lock:
            if unknown := (change.keys() | delete) - self._campaigns.statuses().keys():
                raise KeyError(*unknown)
            for campaign_id, status in change.items():
                self._campaigns.change(campaign_id, status)
            for campaign_id in delete:
                self._campaigns.delete(campaign_id)
            return self._campaigns.create(create)

    def fail(self, target: Target, fault: Fault, *, times: int | None = 1) -> None:
        """Spoil the next `times` requests to the target (after the faults already queued); None: until cleared."""
        self._faults.add(target, fault, times)

    def clear_faults(self) -> None:
        self._faults.clear()

    # --- what the server asks ---------------------------------------------------------------------------------

    def receive(self, request: Request) -> Fault | None:
        """Note that a request has come in, and return the fault that spoils it, if any."""
        call = Call(self._clock(), request.headers.get("host", ""), request.method, request.path)
        with self._lock:
            self._calls.append(call)
        target = TARGET_OF_PATH.get(request.path)
        return self._faults.take(target) if target else None

    def answer(self, request: Request) -> Answer:
        routes = {
            ("POST", TOKEN_PATH): self._issue,
            ("GET", CAMPAIGNS_PATH): self._list,
        }
        route = routes.get((request.method, request.path))
        if route is None:
            known = request.path in TARGET_OF_PATH
            return (
                _json(405, {"message": "Method Not Allowed"})
                if known
                else _json(404, {"message": "Not Found"})
            )
        try:
            return route(request)
        except Invalid as refusal:
            if refusal.status == 422 and not request.wants_json:  # noqa: PLR2004 - HTTP
                return _redirect("/")
            return _json(refusal.status, refusal.body)

    def _issue(self, request: Request) -> Answer:
        fields = request.fields
        for name in ("grant_type", "client_id", "client_secret", "scope"):
            if not isinstance(fields.get(name, ""), str):
                message = f"The {name.replace('_', ' ')} must be a string."
                raise Invalid(422, {"message": message, "errors": {name: [message]}})
        if fields.get("grant_type") != "client_credentials":
            return _oauth_error("unsupported_grant_type", hint="Check that all parameters have been provided")
        for name in ("client_id", "client_secret"):
            if not fields.get(name):
                return _oauth_error("invalid_request", hint=f"Check the `{name}` parameter")
        with self._lock:
            client = self._clients.get(str(fields["client_id"]))
            if client is None or fields["client_secret"] not in client.secrets:
                return _oauth_error("invalid_client", status=401)
            scopes = tuple(str(fields.get("scope") or "").split()) or ALL_SCOPES
            if not set(scopes) <= set(ALL_SCOPES):
                return _oauth_error("invalid_scope", hint="Check the `scope` parameter")
            return self._mint(client, scopes)

    def _mint(self, client: Client, scopes: tuple[str, ...]) -> Answer:
        now = self._clock()
        lifetime_s = self._settings.token_lifetime_s
        token = sign_access_token(client.client_id, scopes, now, now + lifetime_s)
        self._grants[token_id(token)] = _Grant(scopes, now, now + lifetime_s)
        self._mints.append(Mint(token_id(token), client.client_id, now))
        # The real value is sometimes a second too small. Here every other year-long token's is, so that nobody relies on it.
        slip_s = 1 if lifetime_s >= YEAR_S and len(self._mints) % 2 == 0 else 0
        return _json(200, {"token_type": "Bearer", "expires_in": lifetime_s - slip_s, "access_token": token})

    def _scopes(self, request: Request) -> tuple[str, ...] | None:
        """Return what the bearer may do; None for a missing, bad, expired, revoked or too young token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        identifier, now = token_id(token), self._clock()
        with self._lock:
            if identifier in self._personal:
                return ALL_SCOPES
            grant = self._grants.get(identifier)
            young_s = self._settings.refuse_younger_than_s
        if grant is None or now >= grant.expires_at_epoch_s or now < grant.issued_at_epoch_s + young_s:
            return None
        return grant.scopes

    def _refuse(self, request: Request, needed_scope: str) -> Answer | None:
        scopes = self._scopes(request)
        if scopes is None:
            return _json(401, {"message": "Unauthenticated."}) if request.wants_json else _redirect("/login")
        if needed_scope not in scopes:
            return _json(403, {"message": "Invalid scope(s) provided."})
        return None

    def _list(self, request: Request) -> Answer:
        if refusal := self._refuse(request, READ_SCOPE):
            return refusal
        with self._lock:
            page = self._campaigns.answer_list(request.query)
        return _json(200, page)


_OAUTH_DESCRIPTIONS = {
    "unsupported_grant_type": "The authorization grant type is not supported by the authorization server.",
    "invalid_request": "The request lacks a parameter, or one of them is malformed.",
    "invalid_scope": "The requested scope is invalid, unknown, or malformed",
    "invalid_client": "Client authentication failed",
}


def _oauth_error(code: str, *, status: int = 400, hint: str | None = None) -> Answer:
    description = _OAUTH_DESCRIPTIONS[code]
    body = {"error": code, "error_description": description, "message": description}
    return _json(status, {**body, "hint": hint} if hint else body)


def _json(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value).encode())


def _redirect(location: str) -> Answer:
    html = f'<!DOCTYPE html><meta http-equiv="refresh" content="0;url={location}">'.encode()
    return Answer(302, html, {"Location": location}, "text/html; charset=UTF-8")
