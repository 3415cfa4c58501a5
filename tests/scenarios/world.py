"""Where a scenario is played: a clock that is moved by hand, the fakes, and instances of the real policy.

Nothing runs in parallel. Whatever takes time (a sleep, an exchange, a slow AWS call) moves the clock. Steps that become
due meanwhile run inside the call that waits: so a scenario interleaves instances. README.md has the format.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from functions.broker.adapters.dynamodb import token_record
from functions.broker.adapters.oauth_exchange import OAuthExchange
from functions.broker.decide import TokenWanted
from functions.broker.ports import Ports
from functions.broker.status import describe
from local.fakes.services import Services, secret_name
from local.fakes.wire import Operation, Wire, aws_error, no_answer, no_connection, throw
from tests.scenarios.upstream import Crash, ScriptedUpstream
from tests.scenarios.words import CONNECTION, Json, Words, contacts, is_as_foreseen
from token_broker.errors import TokenBrokerError
from token_broker.issued_token import token_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from functions.broker.issue_token import Issued, TokenIssuer

_START = "2026-11-23T12:00:00Z"
_RUN_TIME_S = 30.4
_CALLS = {
    "dynamodb.get_item": "read",
    "dynamodb.update_item": "write",
    "dynamodb.put_item": "row",
    "kms.encrypt": "seal",
    "kms.decrypt": "open",
    "secretsmanager.get_secret_value": "secret",
}
_MOST_CALLS = 500
_ASKED = (*_CALLS.values(), "exchange")
_GROUPS = {"table": ("read", "write", "row"), "key": ("seal", "open")}


@dataclass(slots=True)
class Fault:
    """What an AWS call does from now on, instead of working."""

    kind: str
    skip: int = 0
    times: int = 10**9
    takes_s: float = 0.0


@dataclass(slots=True)
class Running:
    """A call to the broker that is being answered, with what it has asked of whom."""

    instance: str
    asked: Counter[str] = field(default_factory=Counter)
    events: list[Json] = field(default_factory=list)


class World:
    """Plays one scenario. `play` returns the differences between what was foreseen and what came."""

    def __init__(self, scenario: Json) -> None:
        self._start_epoch_s = datetime.fromisoformat(scenario.get("starts_at", _START)).timestamp()
        self._elapsed_s = 0.0
        self._steps: list[Json] = list(scenario["steps"])
        self._running: list[Running] = []
        self._clocks_off_s: dict[str, float] = {}
        self._faults: dict[str, Fault] = {}
        self._ids = 0
        self._chance: float = scenario.get("chance", 0.5)
        self._lease_s: int = scenario.get("lease_s", 900)
        self._upstream_hosts: list[str] = ["api.digishare.ma"]
        self._instances: dict[str, TokenIssuer] = {}
        self.problems: list[str] = []

        self._services = Services(Wire(self._before, self._after))
        self._words = Words(self._start_epoch_s)
        self.upstream = ScriptedUpstream(
            scenario.get("upstream", []), self._exchange_begins, self._words.learn, self._start_epoch_s
        )
        self._put_item(scenario.get("item"))
        for version in scenario.get("secret", ["v1"]):
            self._rotate(version)
        self._finally: Json = scenario.get("finally", {})

    def play(self) -> list[str]:
        """Take every step, compare the end, and return what was not as foreseen."""
        while self._steps:
            self._move_to(max(self._steps[0]["at_s"], self._elapsed_s))
        self._compare("the item", self._finally.get("item", {}), self._described_item())
        if "ledger" in self._finally:
            self._compare_rows(self._finally["ledger"])
        if self.upstream.replies:
            self.problems.append(f"the upstream was not asked for {self.upstream.replies}")
        return self.problems

    # --- time ---------------------------------------------------------------------------------------------------

    def _move_to(self, target_s: float) -> None:
        while self._steps and self._steps[0]["at_s"] <= target_s:
            step = self._steps.pop(0)
            self._elapsed_s = max(self._elapsed_s, step["at_s"])
            self._take(step)
        self._elapsed_s = max(self._elapsed_s, target_s)

    def _move_by(self, seconds: float) -> None:
        assert seconds >= 0, "nobody sleeps backwards"
        self._move_to(self._elapsed_s + seconds)

    def _clock_of(self, instance: str) -> float:
        return self._start_epoch_s + self._elapsed_s + self._clocks_off_s.get(instance, 0.0)

    # --- steps --------------------------------------------------------------------------------------------------

    def _take(self, step: Json) -> None:
        if "change" in step:
            self._change(step["change"])
        if "status" in step:
            record = token_record(CONNECTION, self._stored_item())
            status = describe(record, self._start_epoch_s + self._elapsed_s)
            self._compare(f"status at {step['at_s']} s", step["status"], status)
        if "call" in step:
            self._call(step)

    def _call(self, step: Json) -> None:
        call: Json = step["call"]
        running = Running(call.get("instance", "A"))
        assert running.instance not in {other.instance for other in self._running}, "one request at a time"
        self._running.append(running)
        label = f"call at {step['at_s']} s of {running.instance}"
        try:
            got = self._ask(running.instance, call)
        finally:
            self._running.pop()
        got["answered_at_s"] = round(self._elapsed_s, 1)
        if "error" in got and "error" not in step["gets"]:
            self.problems.append(f"{label}: {got}")
        self._compare(label, step["gets"], got)
        foreseen = contacts(step["asks"])
        names = (*_ASKED, *foreseen)
        if not all(is_as_foreseen(foreseen.get(name, 0), running.asked[name]) for name in names):
            self.problems.append(f"{label}: asks {dict(running.asked)}, foreseen {foreseen}")
        if "events" in step:
            events = [{"event": one} if isinstance(one, str) else one for one in step["events"]]
            if not is_as_foreseen(events, running.events):
                self.problems.append(f"{label}: events {running.events}, foreseen {events}")

    def _ask(self, name: str, call: Json) -> Json:
        now = self._clock_of(name)
        wanted = TokenWanted(
            CONNECTION,
            call.get("min_ttl_s", 0.0),
            token_id_of(self._words.text_of(call["rejected"])) if "rejected" in call else None,
            call.get("caller", "111111111111:role/orders"),
        )
        if name not in self._instances:
            self._instances[name] = self._new_instance(name)
        deadline_epoch_s = now + call.get("run_time_s", _RUN_TIME_S)
        try:
            issued = self._instances[name].issue(wanted, deadline_epoch_s)
        except TokenBrokerError as error:
            return {"error": error.code, "retry_after_s": error.retry_after_s}
        except Crash:
            del self._instances[name]
            return {"crash": True}
        return self._answer(name, issued)

    def _answer(self, name: str, issued: Issued) -> Json:
        token = issued.clear.token
        expires_at = token.expires_at_epoch_s
        if expires_at is not None and expires_at <= self._clock_of(name):
            self.problems.append(f"{name} was served an expired token")
        return {
            "token": self._words.name_of(issued.clear.access_token),
            "from": issued.source,
            "generation": issued.generation,
            "scope": token.scope,
            "expires_at_s": None if expires_at is None else self._words.relative(expires_at),
        }

    def _change(self, change: Json) -> None:
        for what, value in change.items():
            match what:
                case "upstream":
                    self.upstream.replies[:] = value
                case "upstream_hosts":
                    self._upstream_hosts = value
                case "secret":
                    self._rotate(value)
                case "secret_deleted":
                    self._services.secrets.delete(secret_name(CONNECTION))
                case "clock_off_s":
                    self._clocks_off_s.update(value)
                case "item":
                    self._put_item(value)
                case "faults":
                    self._set_faults(value)
                case _:
                    raise ValueError(what)

    # --- AWS ----------------------------------------------------------------------------------------------------

    def _set_faults(self, faults: Json) -> None:
        for name, value in faults.items():
            for call in _GROUPS.get(name, (name,)):
                assert call in _CALLS.values(), call
                fault = Fault(**value) if isinstance(value, dict) else Fault(value)
                if fault.kind == "none":
                    self._faults.pop(call, None)
                else:
                    self._faults[call] = fault

    def _before(self, operation: Operation) -> None:
        call = _CALLS[operation.name]
        self._running[-1].asked[call] += 1
        assert self._running[-1].asked.total() < _MOST_CALLS, "a request that does not end"
        fault = self._faults.get(call)
        if fault is None or fault.skip or not fault.times:
            return
        if fault.takes_s:
            self._move_by(fault.takes_s)
        if fault.kind == "crash_before":
            self._faults.pop(call)
            raise Crash
        if fault.kind in {"no_answer", "crash_after", "slow"}:
            return
        fault.times -= 1
        raise no_connection() if fault.kind == "down" else aws_error(fault.kind)

    def _after(self, operation: Operation) -> None:
        fault = self._faults.get(_CALLS[operation.name])
        if fault is None or not fault.times:
            return
        if fault.skip:
            fault.skip -= 1
            return
        fault.times -= 1
        if fault.kind == "crash_after":
            self._faults.pop(_CALLS[operation.name])
            raise Crash
        if fault.kind == "no_answer":
            raise no_answer()

    def _exchange_begins(self, takes_s: float) -> None:
        self._running[-1].asked["exchange"] += 1
        self._move_by(takes_s)

    def _rotate(self, version: str | Json) -> None:
        """Make a version current; a bare name stands for client credentials whose secret is named after it."""
        described: Json = {"version": version} if isinstance(version, str) else version
        name = described["version"]
        value: object = {"client_id": "client-1", "client_secret": f"secret-of-{name}"}
        if "personal" in described:
            value = {"type": "personal_access_token", "access_token": described["personal"]}
        elif "with" in described:
            value = {"client_id": "client-1", "client_secret": f"secret-of-{name}", **described["with"]}
        elif "binary" in described:
            value = described["binary"].encode()
        new = self._services.put_secret(CONNECTION, described.get("value", value))
        self._words.versions[new] = name

    def _put_item(self, item: Json | None) -> None:
        key = (CONNECTION, "token")
        self._services.dynamodb.items.pop(key, None)
        if item is not None:
            self._services.dynamodb.items[key] = self._words.to_attributes(item)

    # --- comparing ----------------------------------------------------------------------------------------------

    def _stored_item(self) -> dict[str, Any]:
        return dict(self._services.dynamodb.items.get((CONNECTION, "token"), {}))

    def _described_item(self) -> Json:
        return self._words.from_attributes(self._stored_item(), self._start_epoch_s + self._elapsed_s)

    def _compare_rows(self, foreseen: list[Json]) -> None:
        stored = sorted(self._services.dynamodb.items.items())
        rows = [self._words.from_row(item) for (_, record), item in stored if record.startswith("mint#")]
        if len(rows) != len(foreseen):
            self.problems.append(f"the ledger has {len(rows)} rows, foreseen {len(foreseen)}: {rows}")
        for number, (wanted, row) in enumerate(zip(foreseen, rows, strict=False), start=1):
            self._compare(f"row {number} of the ledger", wanted, row)

    def _compare(self, label: str, foreseen: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        for name, wanted in foreseen.items():
            if name not in found:
                self.problems.append(f"{label}: there is no {name}: {dict(found)}")
            elif not is_as_foreseen(wanted, found[name]):
                self.problems.append(f"{label}: {name} is {found[name]}, foreseen {wanted}: {dict(found)}")

    # --- instances ----------------------------------------------------------------------------------------------

    def _new_instance(self, name: str) -> TokenIssuer:
        def clock() -> float:
            return self._clock_of(name)

        def new_id() -> str:
            self._ids += 1
            return f"owner-{self._ids}"

        def notice(event: str, facts: dict[str, object]) -> None:
            self._running[-1].events.append({"event": event, **facts})

        ports = Ports(
            clock=clock,
            monotonic=lambda: self._elapsed_s,
            sleep=self._move_by,
            randomness=lambda: self._chance,
            new_id=new_id,
            notice=notice,
            notice_bug=throw,
        )
        return self._services.new_issuer(
            ports,
            new_exchange=lambda settings: OAuthExchange(settings.upstream_hosts, None, clock),
            LEASE_SECONDS=str(self._lease_s),
            UPSTREAM_HOSTS=",".join(self._upstream_hosts),
        )
