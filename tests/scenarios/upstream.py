"""The upstream of a scenario: scripted answers, as HTTP, so that the real parsing is tested."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from requests.structures import CaseInsensitiveDict

from local.fakes.services import ENVIRONMENT
from token_broker import bounded_http

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


class Crash(BaseException):
    """The instance is killed at this moment and does nothing more."""


class ScriptedUpstream:
    """Stands in for `upstream_http.exchange_json`.

    Args:
        replies: what is to be answered, in this order.
        begins: told of every exchange, and how many seconds it takes.
        learn: told of every token whose text is made here (a JWT): its name and its text.
        start_epoch_s: when the scenario begins.

    Attributes:
        replies: what is still to be answered.
    """

    def __init__(
        self,
        replies: list[Json],
        begins: Callable[[float], None],
        learn: Callable[[str, str], None],
        start_epoch_s: float,
    ) -> None:
        self.replies = list(replies)
        self._begins = begins
        self._learn = learn
        self._start_epoch_s = start_epoch_s

    def exchange_json(
        self, _session: object, method: str, url: str, *, json_body: Json, total_timeout_s: float, **_: object
    ) -> bounded_http.BoundedResponse:
        """Give the next reply; a reply slower than the time-out is no answer."""
        assert self.replies, "the upstream is asked more often than the scenario foresees"
        reply = self.replies.pop(0)
        assert (method, url) == ("POST", reply.get("url", ENVIRONMENT["DEFAULT_TOKEN_URL"]))
        scope = json_body.get("scope")
        assert scope == reply.get("for_scope"), f"the scope {scope} was sent"
        sent = json_body["client_secret"].removeprefix("secret-of-")
        assert sent == reply.get("for", sent), f"the secret of {sent} was sent"
        takes_s = reply.get("takes_s", 0.0)
        frozen = reply.get("frozen", False)
        self._begins(takes_s if frozen else min(takes_s, total_timeout_s))
        if reply.get("crash"):
            raise Crash
        if reply.get("unreachable"):
            raise bounded_http.ConnectFailed
        if reply.get("no_answer") or (takes_s > total_timeout_s and not frozen):
            raise bounded_http.NoAnswer
        return self._response(reply)

    def _response(self, reply: Json) -> bounded_http.BoundedResponse:
        body: Json = {}
        if "error" in reply:
            body = {"error": reply["error"], "error_description": "no"}
        elif "token" in reply:
            body = {"token_type": "Bearer", "access_token": self._text_of(reply)}
        body |= {name: reply[name] for name in ("expires_in", "scope") if name in reply}
        text = reply.get("text", json.dumps(reply.get("body", body)))
        content_type = reply.get("content_type", "application/json")
        headers = CaseInsensitiveDict({"Content-Type": content_type, **reply.get("headers", {})})
        return bounded_http.BoundedResponse(reply.get("status", 200), headers, text.encode())

    def _text_of(self, reply: Json) -> str:
        """Return the token's text: its name, or a JWT with the claims that are described."""
        if "jwt" not in reply:
            return str(reply["token"])
        claims = {
            name.removesuffix("_s"): self._start_epoch_s + value if name.endswith("_s") else value
            for name, value in reply["jwt"].items()
        }
        parts = ({"alg": "RS256", "typ": "JWT"}, {"sub": reply["token"], **claims})
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        text = ".".join([*encoded, "c2lnbmF0dXJl"])
        self._learn(reply["token"], text)
        return text
