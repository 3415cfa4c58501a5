"""Short leases on one upstream token, for callers that prove who they are with their AWS identity.

``BrokerClient(url).token()`` is all that most callers need; `docs/calling-the-broker.md` shows every other way.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from token_broker.client import BrokerClient
    from token_broker.errors import TokenBrokerError
    from token_broker.lease import Lease

__all__ = ["BrokerClient", "Lease", "TokenBrokerError"]

_HOME = {
    "BrokerClient": "token_broker.client",
    "Lease": "token_broker.lease",
    "TokenBrokerError": "token_broker.errors",
}


def __getattr__(name: str) -> object:
    # Lazy, because the functions import `token_broker.errors` on their cold path and must not pay for the client.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_HOME[name]), name)
