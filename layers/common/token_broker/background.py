"""Runs work that cannot be stopped, such as a name lookup, so that a caller whose time is over need not wait for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def in_background(what: str, act: Callable[[], _T], outcome: Future[_T] | None = None) -> Future[_T]:
    """Run work that cannot be stopped in a thread that nobody has to wait for, not even the interpreter at its end.

    Args:
        what: names the thread.
        act: what is run.
        outcome: gets its answer or error, or RuntimeError where no thread can be started; default: a new one.
    """
    future: Future[_T] = outcome or Future()

    def run() -> None:
        try:
            answer = act()
        except BaseException as error:  # noqa: BLE001 - passed on to the caller that waits
            future.set_exception(error)
        else:
            future.set_result(answer)

    try:
        threading.Thread(target=run, name=f"token-broker: {what}", daemon=True).start()
    except RuntimeError as error:  # the process has too many, or is ending
        future.set_exception(error)
    return future
