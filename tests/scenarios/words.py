"""Translates between a scenario and the table: relative times, names of tokens and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from local.fakes.aws import FakeKMS
from local.fakes.services import ENVIRONMENT
from token_broker.dynamodb_attributes import from_attribute, number_text, to_attribute
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

CONNECTION = "digishare"
_LIFETIME_S = 10_000
_UNSAID_S = 86_400
_TENTH = 0.1
_CONTACTS: dict[str, Json] = {
    "nobody": {},
    "check": {"read": 1},
    "open": {"read": 1, "open": 1},
    "mint": {"read": 1, "write": 2, "row": 2, "seal": 2, "secret": 2, "exchange": 1},
    "failed mint": {"read": 2, "write": 2, "row": 2, "seal": 1, "secret": 2, "exchange": 1},
    "unsure mint": {"read": 2, "write": 2, "row": 1, "seal": 1, "secret": 2, "exchange": 1},
}
"""Names for the usual numbers of contacts of a call; README.md explains them."""


class Words:
    """Translates for one scenario.

    Attributes:
        versions: VersionId to the name of each version of the secret.
    """

    def __init__(self, start_epoch_s: float) -> None:
        self._start_epoch_s = start_epoch_s
        self._texts: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def learn(self, name: str, text: str) -> None:
        """Remember a token whose text is not its name."""
        self._texts[name] = text

    def text_of(self, name: str) -> str:
        """Return the text of the token of that name."""
        return self._texts.get(name, name)

    def name_of(self, text: str) -> str:
        """Return the name of the token with that text."""
        return next((name for name, known in self._texts.items() if known == text), text)

    def relative(self, epoch_s: float) -> float:
        """Return seconds since the start of the scenario."""
        return round(epoch_s - self._start_epoch_s, 3)

    def to_attributes(self, item: Json) -> dict[str, Any]:
        """Return the DynamoDB item that a scenario describes; README.md says what each member means."""
        fence: int = item.get("fence") or item.get("token_fence", 1)
        pace: Json = {"left": 24, "since_s": 0} | item.get("pace", {})
        fields: dict[str, object] = {
            "connection": CONNECTION,
            "record": "token",
            "format": 1,
            "fence": fence,
            "generation": item.get("generation", 1 if "token" in item else 0),
            "pace": {"left": float(pace["left"]), "since_epoch_s": self._epoch_s(pace["since_s"])},
            "refused_versions": [_version_id(name) for name in item.get("refused_versions", [])],
            "reports": {
                caller: [self._epoch_s(at_s) for at_s in moments]
                for caller, moments in item.get("reports", {}).items()
            },
        }
        if "refresh_at_s" in item:
            fields["refresh_at_epoch_s"] = self._epoch_s(item["refresh_at_s"])
        if "lock_until_s" in item:
            fields["lock_owner"] = item.get("lock_owner", "somebody")
            fields["lock_until_epoch_s"] = self._epoch_s(item["lock_until_s"])
        if "failure" in item:
            failure: Json = {"count": 1} | item["failure"]
            fields["failure"] = failure | {"not_before_epoch_s": self._epoch_s(failure.pop("not_before_s"))}
        if "token" in item:
            fields["token"] = self._token_fields(item, item.get("token_fence", fence))
        return {name: to_attribute(value) for name, value in fields.items()}

    def from_attributes(self, stored: Mapping[str, Mapping[str, Any]], now_epoch_s: float) -> Json:
        """Return an item in the words of a scenario."""
        plain = _plain(stored)
        record: Json = self._in_words(plain)
        token: Json = self._in_words(plain.get("token", {}))
        found: Json = {
            **dict.fromkeys(("generation", "failure", "pace", "lock_owner", "lock_until_s", "refresh_at_s")),
            **dict.fromkeys(("expires_at_s", "issued_at_s", "lifetime_s", "scope", "version_stage")),
            **record,
            **token,
            "exists": bool(stored),
            "locked": plain.get("lock_until_epoch_s", 0.0) > now_epoch_s,
            "fence": record.get("fence"),
            "token_fence": token.get("fence"),
            "token": self._name_of_id(token),
            "secret_version": self.versions.get(token["secret_version"]) if token else None,
            "refused_versions": [self.versions.get(known) for known in plain.get("refused_versions", [])],
            "reports": {
                caller: [self.relative(at) for at in moments]
                for caller, moments in plain.get("reports", {}).items()
            },
        }
        if plain.get("refresh_at_epoch_s") == 0:
            found["refresh_at_s"] = None
        return found

    def from_row(self, stored: Mapping[str, Mapping[str, Any]]) -> Json:
        """Return a row of the ledger in the words of a scenario."""
        nothing: Json = dict.fromkeys(("expires_at_s", "lifetime_s", "delete_after_s", "scope"))
        row = nothing | self._in_words(_plain(stored))
        row["token"] = self._name_of_id(row)
        row["secret_version"] = self.versions[row["secret_version"]]
        return row

    def _in_words(self, plain: Mapping[str, Any]) -> Json:
        """Return a map whose moments count from the start of the scenario."""
        return {
            name.replace("_epoch_s", "_s"): self.relative(value)
            if name.endswith("_epoch_s")
            else self._in_words(value)
            if isinstance(value, dict)
            else value
            for name, value in plain.items()
        }

    def _token_fields(self, item: Json, token_fence: int) -> dict[str, object]:
        expires_at_s, said_s = item["expires_at_s"], item.get("lifetime_s", _LIFETIME_S)
        span_s = _UNSAID_S if said_s is None else said_s
        issued_at_s = item["issued_at_s"] if "issued_at_s" in item else expires_at_s - span_s
        sealed_text: str = item["sealed"] if "sealed" in item else item["token"]
        expires_at, sealed_for = (
            "none" if at_s is None else number_text(self._epoch_s(at_s))
            for at_s in (expires_at_s, item.get("sealed_for_expiry_s", expires_at_s))
        )
        context = {
            "connection": item.get("sealed_for_connection", CONNECTION),
            "fence": str(item.get("sealed_for_fence", token_fence)),
            "expires_at": sealed_for,
        }
        sealed = FakeKMS().encrypt(
            KeyId=ENVIRONMENT["TOKEN_KEY_ARN"], Plaintext=sealed_text.encode(), EncryptionContext=context
        )
        fields: dict[str, object] = {
            "token_id": token_id_of(item["token"]),
            "sealed": sealed["CiphertextBlob"],
            "fence": token_fence,
            "issued_at_epoch_s": self._epoch_s(issued_at_s),
            "secret_version": _version_id(item.get("secret_version", "v1")),
            "version_stage": item.get("version_stage", "AWSCURRENT"),
        }
        if expires_at != "none":
            fields["expires_at_epoch_s"] = self._epoch_s(expires_at_s)
            if said_s is not None:
                fields["lifetime_s"] = float(said_s)
        return fields

    def _epoch_s(self, at_s: float) -> float:
        return self._start_epoch_s + at_s

    def _name_of_id(self, token: Json) -> str | None:
        """Return the name of the token whose id is in a map, or None."""
        numbered = {f"{kind}{number}": f"{kind}{number}" for kind in "TP" for number in range(40)}
        known = numbered | self._texts
        token_id = token.get("token_id")
        return next((name for name, text in known.items() if token_id_of(text) == token_id), None)


def contacts(described: str | Json) -> Json:
    """Return how often a call contacts each service: by a name, or a name (`like`) and what differs."""
    if isinstance(described, str):
        return _CONTACTS[described]
    return _CONTACTS[described.get("like", "nobody")] | {
        name: times for name, times in described.items() if name != "like"
    }


def is_as_foreseen(wanted: object, found: object) -> bool:
    """Compare as README.md says: numbers roughly or as a range, of an object only the members that are wanted."""
    match wanted, found:
        case {"from": first, "to": last}, int() | float():
            return bool(first <= found <= last)
        case {"has": part}, str():
            return part in found
        case dict(), dict():
            rows = wanted.items()
            members = all(name in found and is_as_foreseen(value, found[name]) for name, value in rows)
            return members and bool(wanted) >= bool(found)
        case list(), list():
            return len(wanted) == len(found) and all(map(is_as_foreseen, wanted, found))
        case ((int() | float()), (int() | float())) if not isinstance(wanted, bool):
            return abs(wanted - found) < _TENTH
    return wanted == found


def _version_id(name: str) -> str:
    """Return the VersionId that `vN` gets: the fake numbers versions in the order in which they are put."""
    return f"00000000-0000-4000-8000-{int(name[1:]):012d}"


def _plain(stored: Mapping[str, Mapping[str, Any]]) -> Json:
    return {name: from_attribute(value) for name, value in stored.items()}
