"""Which hosts a token may be sent to, and where plain HTTP is allowed: on this machine only, for the local cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

DIGISHARE_HOSTS: Final = ("api.digishare.ma",)
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def is_private_channel(url: str) -> bool:
    """Return whether nobody else can read what is sent to `url`: HTTPS, or HTTP to a loopback host."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)


def may_carry_token(url: str, hosts: frozenset[str]) -> bool:
    """Return whether a request to `url` may have the token: its host is one of `hosts` and the channel is private.

    Args:
        url: absolute.
        hosts: host names in lower case, without scheme or port; any port of such a host counts.
    """
    return urlsplit(url).hostname in hosts and is_private_channel(url)


def host_names(hosts: Iterable[str]) -> frozenset[str]:
    """Return host names in the form that `may_carry_token` takes.

    Raises:
        ValueError: an entry is a URL or has a port, so that it would never match and no request would get a token.
    """
    names = frozenset(name.lower() for name in ([hosts] if isinstance(hosts, str) else hosts))
    for name in names:
        if urlsplit(f"//{f'[{name}]' if name.count(':') > 1 else name}").hostname != name:
            raise ValueError(f"{name!r} is not a host name; write it without scheme, port and path")
    return names
