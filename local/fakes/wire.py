"""Between the broker and every fake: here calls are counted, and here faults and crashes happen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from functions.broker.ports import MintFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from botocore.exceptions import BotoCoreError

Answer = TypeVar("Answer")

_ENDPOINT = "https://aws.invalid"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: `name` as in "dynamodb.update_item", and the parameters as they were given."""

    name: str
    request: Mapping[str, Any] = field(repr=False)


class Wire:
    """Runs the operations of the fakes that share it.

    Attributes:
        before: called before an operation takes effect; what it raises reaches the caller, and nothing has happened.
        after: called once the operation has taken effect (or was refused); what it raises reaches the caller in
            place of the answer. If it returns True, the answer was lost and the SDK sends the same call again.
        contacts: how often each operation was sent, by name.
    """

    def __init__(
        self,
        before: Callable[[Operation], None] = lambda _: None,
        after: Callable[[Operation], bool | None] = lambda _: None,
    ) -> None:
        self.before = before
        self.after = after
        self.contacts: Counter[str] = Counter()

    def run(self, name: str, request: Mapping[str, Any], take_effect: Callable[[], Answer]) -> Answer:
        """Send one operation and return the answer, or raise what the service or a hook raises."""
        operation = Operation(name, request)
        while True:
            self.contacts[name] += 1
            self.before(operation)
            refusal: ClientError | MintFailedError | None = None
            try:
                answer = take_effect()
            except (ClientError, MintFailedError) as error:
                refusal = error
            if self.after(operation):
                continue
            if refusal:
                raise refusal
            return answer


def aws_error(code: str, operation: str = "Operation", **members: Any) -> ClientError:
    """Return an AWS error such as ThrottlingException, as botocore raises it; `members` are added beside its `Error`."""
    response: Any = {"Error": {"Code": code, "Message": code}, **members}
    return ClientError(response, operation)


def no_connection() -> BotoCoreError:
    """Return the error of a service that cannot be reached: nothing has taken effect."""
    return EndpointConnectionError(endpoint_url=_ENDPOINT)


def no_answer() -> BotoCoreError:
    """Return the error of an answer that never came: the call may have taken effect."""
    return ReadTimeoutError(endpoint_url=_ENDPOINT)


def throw(bug: Exception) -> NoReturn:
    """Raise an error that the policy would catch as unforeseen: where all services are fakes, it is a real bug."""
    raise bug


def refuse_unknown(request: Mapping[str, Any], known: str) -> None:
    """Refuse members that a fake does not know; `known` names the others, with spaces between."""
    if unknown := set(request) - set(known.split()):
        raise NotImplementedError(", ".join(sorted(unknown)))
