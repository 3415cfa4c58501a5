"""Controls the fake from another process: the same as `DigishareApi`'s methods, as JSON over loopback HTTP.

| request | does |
| --- | --- |
| `GET /state` | mints, calls, requests by path, waiting faults, settings |
| `POST /reset` | as `DigishareApi.reset` |
| `PUT /clients` | `[{"client_id", "secrets": [...]}]` |
| `PUT /personal-access-tokens` | `[{"token"}]` |
| `PUT /settings` | any of `Settings` |
| `POST /revoke` | `{"token_id": "..."}` or `{"all": true}` |
| `POST /faults` | `{"target": "token" or "campaigns", "kind": one of FAULTS, "times"?: N or null, ...its arguments}` |
| `DELETE /faults` | clears them |
| `GET /campaigns` | `{"statuses": {id: status}}`: what a perfect reader would know now |
| `PUT /campaigns` | `{"count": N}`: a new list |
| `POST /campaigns` | any of `{"create": N, "change": {id: status}, "delete": [ids]}`, at one moment |

Answers are 200 with the state, 400 with `{"error"}`, or 404. The state is that of `GET /state`; for `/campaigns` it is
that of `GET /campaigns`, with the `created` ids after a POST.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from local.digishare.faults import FAULTS, TARGETS
from local.digishare.model import Client, PersonalAccessToken
from local.loopback import LoopbackHandler, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from local.digishare.api import DigishareApi


class AdminServer(LoopbackServer):
    """Listens on loopback only and needs no credential: everybody who can reach it controls the fake."""

    def __init__(self, digishare: DigishareApi, port: int = 0) -> None:
        self.digishare = digishare
        super().__init__(_AdminHandler, port)


class _AdminHandler(LoopbackHandler):
    server: AdminServer

    def serve(self) -> None:
        body = self.read_body()
        action = _ACTIONS.get(f"{self.command} {self.path}")
        if action is None:
            self.send_json(404, {"error": "not found"})
            return
        try:
            answer = action(self.server.digishare, json.loads(body or b"{}"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.send_json(400, {"error": f"{type(error).__name__}: {error}"})
            return
        self.send_json(200, state(self.server.digishare) if answer is None else answer)


def state(digishare: DigishareApi) -> dict[str, object]:
    mints = digishare.mints
    return {
        "mint_count": len(mints),
        "mints": [asdict(mint) for mint in mints],
        "calls": [asdict(call) for call in digishare.calls],
        "requests_by_path": digishare.requests_by_path,
        "waiting_faults": digishare.waiting_faults,
        "settings": asdict(digishare.settings),
    }


# JSON from a test or the supervisor: its shape is checked by the constructors that it is given to.
_Json = Any


def _set_clients(digishare: DigishareApi, value: _Json) -> None:
    digishare.set_clients(Client(each["client_id"], tuple(each["secrets"])) for each in value)


def _set_personal_access_tokens(digishare: DigishareApi, value: _Json) -> None:
    digishare.set_personal_access_tokens(PersonalAccessToken(**each) for each in value)


def _revoke(digishare: DigishareApi, value: _Json) -> None:
    if value.get("all") is True:
        digishare.revoke_all()
    elif not digishare.revoke(value["token_id"]):
        raise ValueError("no such token")


def _add_fault(digishare: DigishareApi, value: _Json) -> None:
    arguments = dict(value)
    target, kind, times = arguments.pop("target"), arguments.pop("kind"), arguments.pop("times", 1)
    if target not in TARGETS or kind not in FAULTS:
        raise ValueError(f"target is one of {', '.join(TARGETS)}; kind is one of {', '.join(FAULTS)}")
    digishare.fail(target, FAULTS[kind](**arguments), times=times)


def _campaigns(digishare: DigishareApi, _value: _Json) -> dict[str, object]:
    return {"statuses": digishare.campaign_statuses}


def _replace_campaigns(digishare: DigishareApi, value: _Json) -> dict[str, object]:
    digishare.replace_campaigns(value["count"])
    return _campaigns(digishare, value)


def _change_campaigns(digishare: DigishareApi, value: _Json) -> dict[str, object]:
    return {"created": digishare.change_campaigns(**value), **_campaigns(digishare, value)}


# What an action returns is answered; where it returns None, the state is.
_ACTIONS: dict[str, Callable[[DigishareApi, _Json], object]] = {
    "GET /state": lambda _digishare, _value: None,
    "GET /campaigns": _campaigns,
    "PUT /campaigns": _replace_campaigns,
    "POST /campaigns": _change_campaigns,
    "POST /reset": lambda digishare, _value: digishare.reset(),
    "PUT /clients": _set_clients,
    "PUT /personal-access-tokens": _set_personal_access_tokens,
    "PUT /settings": lambda digishare, value: digishare.configure(**value),
    "POST /revoke": _revoke,
    "POST /faults": _add_fault,
    "DELETE /faults": lambda digishare, _value: digishare.clear_faults(),
}
