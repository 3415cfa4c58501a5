"""Between the words of a scenario and what the table holds: relative times, tokens and versions by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from functions.broker.lifetime import token_id_of
from functions.broker.token_record import from_attribute, to_attribute
from tests.fakes.aws import FakeKMS

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

CONNECTION = "digishare"
KEY_ARN = "arn:aws:kms:x:1:key/a"
_LIFETIME_S = 10_000
_COUNTS = ("fence", "token_fence", "generation", "mints_today", "mints_day", "lifetime_s", "scope")
_TIMES = ("expires_at", "issued_at", "next_refresh_at", "next_attempt_at", "lock_until")


class Words:
    """Translates for one scenario.

    Attributes:
        versions: VersionId to the name of each version of the secret.
        tokens: the tokens that have no name of their own (JWTs): they are called what they are.
    """

    def __init__(self, start_epoch_s: float) -> None:
        self._start_epoch_s = start_epoch_s
        self.versions: dict[str, str] = {}
        self.tokens: list[str] = []

    def relative(self, epoch_s: float) -> float:
        """Return seconds since the start of the scenario."""
        return round(epoch_s - self._start_epoch_s, 3)

    def to_attributes(self, item: Json) -> dict[str, Any]:
        """Return the DynamoDB item that a scenario describes; README.md says what each member means."""
        fence: int = item.get("fence") or item.get("token_fence", 1)
        fields: dict[str, object] = {
            "connection": CONNECTION,
            "record": "token",
            "fence": fence,
            "lock_owner": "somebody",
            "mints_day": item.get("mints_day", self._day()),
            "mints_today": item.get("mints_today", 1),
            "rejections": {
                caller: [self._start_epoch_s + at_s for at_s in times]
                for caller, times in item.get("rejections", {}).items()
            },
        }
        for name in ("lock_until", "next_refresh_at", "next_attempt_at"):
            at_s = item.get(f"{name}_s")
            fields[f"{name}_epoch_s"] = 0.0 if at_s is None else self._start_epoch_s + at_s
        if "failure" in item:
            failure = {"terminal": False, "secret_version": "", "count": 1} | item["failure"]
            failure["secret_version"] = _version_id(failure["secret_version"])
            failure["terminal"] = int(failure["terminal"])
            fields["failure"] = failure | {"at_epoch_s": self._start_epoch_s}
        if "token" in item:
            fields |= self._token_fields(item, item.get("token_fence", fence))
        return {name: to_attribute(value) for name, value in fields.items()}

    def from_attributes(self, stored: Mapping[str, Mapping[str, Any]], now_epoch_s: float) -> Json:
        """Return an item in the words of a scenario."""
        record = _plain(stored)
        found: Json = {
            "exists": bool(stored),
            "locked": record.get("lock_until_epoch_s", 0.0) > now_epoch_s,
            "failure": record.get("failure"),
            "token": self._name_of(record.get("token_id", "")),
            "secret_version": self.versions.get(record.get("secret_version", "")),
            "rejections": {
                caller: [self.relative(at) for at in times]
                for caller, times in record.get("rejections", {}).items()
            },
        }
        for name in _COUNTS:
            found[name] = record.get(name)
        for name in _TIMES:
            at_epoch_s = record.get(f"{name}_epoch_s")
            found[f"{name}_s"] = self.relative(at_epoch_s) if at_epoch_s else None
        if found["failure"]:
            version = found["failure"]["secret_version"]
            found["failure"]["secret_version"] = self.versions.get(version, version)
            found["failure"]["terminal"] = bool(found["failure"]["terminal"])
        return found

    def from_row(self, stored: Mapping[str, Mapping[str, Any]]) -> Json:
        """Return a row of the ledger in the words of a scenario."""
        row = _plain(stored)
        row["token"] = self._name_of(row["token_id"])
        row["secret_version"] = self.versions.get(row["secret_version"], "")
        for name in ("begun_at", "expires_at", "delete_after"):
            at_epoch_s = row.pop(f"{name}_epoch_s", None)
            row[f"{name}_s"] = None if at_epoch_s is None else self.relative(at_epoch_s)
        return row

    def _token_fields(self, item: Json, token_fence: int) -> dict[str, object]:
        lifetime_s, expires_at_s = item.get("lifetime_s", _LIFETIME_S), item["expires_at_s"]
        issued_at_s = item["issued_at_s"] if expires_at_s is None else expires_at_s - lifetime_s
        context = {"connection": CONNECTION, "fence": str(item.get("sealed_for_fence", token_fence))}
        sealed = FakeKMS(key_arn=KEY_ARN).encrypt(
            KeyId=KEY_ARN, Plaintext=item["token"].encode(), EncryptionContext=context
        )
        fields: dict[str, object] = {
            "token_id": token_id_of(item["token"]),
            "sealed": sealed["CiphertextBlob"],
            "token_fence": token_fence,
            "generation": item.get("generation", 1),
            "issued_at_epoch_s": self._start_epoch_s + issued_at_s,
            "lifetime_s": float(lifetime_s),
            "secret_version": _version_id(item.get("secret_version", "v1")),
        }
        if expires_at_s is not None:
            fields["expires_at_epoch_s"] = self._start_epoch_s + expires_at_s
        return fields

    def _day(self) -> str:
        return datetime.fromtimestamp(self._start_epoch_s, UTC).strftime("%Y-%m-%d")

    def _name_of(self, token_id: str) -> str | None:
        known = [f"{kind}{number}" for kind in "TP" for number in range(20)] + self.tokens
        return next((token for token in known if token_id_of(token) == token_id), None)


def is_as_foreseen(wanted: object, found: object) -> bool:
    """Compare; numbers to a tenth of a second, and `{"from": a, "to": b}` as a range, both ends included."""
    if isinstance(wanted, dict) and set(wanted) == {"from", "to"}:
        return isinstance(found, int | float) and wanted["from"] <= found <= wanted["to"]
    if isinstance(wanted, dict) and isinstance(found, dict) and "code" in found:
        return all(is_as_foreseen(value, found.get(name)) for name, value in wanted.items())
    numbers = [
        value for value in (wanted, found) if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    if len(numbers) == 2:
        return abs(numbers[0] - numbers[1]) < 0.1
    return wanted == found


def _version_id(name: str) -> str:
    """Return the VersionId that `vN` gets: the fake numbers versions in the order in which they are put."""
    return f"00000000-0000-4000-8000-{int(name[1:]):012d}" if name else ""


def _plain(stored: Mapping[str, Mapping[str, Any]]) -> Json:
    return {name: from_attribute(value) for name, value in stored.items()}
