"""Whether anything answers at the broker's URL, and how far this machine's clock is from AWS's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import botocore.session

from token_broker.bounded_http import CallError, ConnectFailed, NoAnswer, call, epoch_s_of_date
from token_broker.errors import NotConfigured
from token_broker.sdk_settings import proxy_for, tls_context_for

if TYPE_CHECKING:
    from collections.abc import Callable

_TOTAL_TIMEOUT_S: Final = 8.0
_CONNECT_TIMEOUT_S: Final = 3.0
_MAX_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Reachability:
    """Whether there was an answer, and `clock_difference_s` as `ahead_s` returns it."""

    answers: bool
    clock_difference_s: float | None = None


def look_for_answer(url: str, clock: Callable[[], float]) -> Reachability:
    """Send a request without a signature, which AWS refuses, with its date; blocks for 8 s at most.

    A failure that is not the network's (a certificate that is not trusted here, settings that cannot be read) counts as
    an answer: the signed request will say more.
    """
    try:
        response = call(
            "GET",
            f"{url}/status",
            headers={},
            tls=tls_context_for(botocore.session.get_session()) if url.startswith("https:") else None,
            proxy=proxy_for(url),
            total_timeout_s=_TOTAL_TIMEOUT_S,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            max_body_bytes=_MAX_ANSWER_BYTES,
        )
    except (CallError, NotConfigured) as error:
        return Reachability(answers=type(error) not in {ConnectFailed, NoAnswer})
    return Reachability(answers=True, clock_difference_s=ahead_s(response.headers.get("Date"), clock))


def ahead_s(date: str | None, clock: Callable[[], float]) -> float | None:
    """Return by how many seconds `clock` is ahead of the Date of an answer that has just come; None if it is no date."""
    epoch_s = epoch_s_of_date(date or "")
    return None if epoch_s is None else clock() - epoch_s
