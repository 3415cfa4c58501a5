"""Region, root certificates and proxy, found as the AWS SDK finds them: a caller has set them up for it already."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.utils import get_environ_proxies

from token_broker.bounded_http import Proxy, new_tls_context
from token_broker.errors import NotConfigured

if TYPE_CHECKING:
    import ssl

    import botocore.session

_FUNCTION_URL_HOST: Final = re.compile(r"[a-z0-9]+\.lambda-url\.(?P<region>[a-z0-9-]+)\.on\.aws")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")


def region_of_url(url: str) -> str | None:
    """Return the region that a Function URL names; None for other hosts, and for what is no URL."""
    try:
        match = _FUNCTION_URL_HOST.fullmatch(urlsplit(url).hostname or "")
    except ValueError:
        return None
    return match["region"] if match else None


def region_for(url: str, given: str | None, session: botocore.session.Session | None) -> str | None:
    """Return the region to sign for: what was given, the URL's, the session's own, AWS_REGION, what the SDK finds.

    Args:
        url: the broker's.
        given: as an argument or option.
        session: None leaves out the two steps that need one.

    Raises:
        NotConfigured: it is no region's name.
    """
    own = session.instance_variables().get("region") if session else None
    # botocore reads only AWS_DEFAULT_REGION, while containers and Lambda promise AWS_REGION.
    region = given or region_of_url(url) or own or os.environ.get("AWS_REGION")
    if not region and session:
        region = _variable(session, "region")
    if region and not _REGION.fullmatch(region):
        # It would go into a header, beside the session token.
        raise NotConfigured("the AWS region is no region's name; it should be like eu-west-3")
    return region or None


def tls_context_for(session: botocore.session.Session) -> ssl.SSLContext:
    """Return a context with the roots that the SDK would trust: AWS_CA_BUNDLE, ca_bundle, REQUESTS_CA_BUNDLE, public.

    Raises:
        NotConfigured: they cannot be read.
    """
    own = _variable(session, "ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    path = os.path.expanduser(own or str(get_cert_path(verify=True)))  # noqa: PTH111 - as botocore does it
    try:
        return new_tls_context(path)
    except (OSError, ValueError):
        pass
    raise NotConfigured(
        f"no certificates can be read from {path}; correct AWS_CA_BUNDLE, ca_bundle in ~/.aws/config or REQUESTS_CA_BUNDLE"
    )


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that HTTPS_PROXY and NO_PROXY name for an https URL; None for http, which stays on the machine.

    Raises:
        NotConfigured: it is not a proxy's URL.
    """
    if not url.startswith("https:"):
        return None
    try:
        configured = ProxyConfiguration(get_environ_proxies(url))
        proxy_url = configured.proxy_url_for(url)
        if not proxy_url:
            return None
        parts = urlsplit(proxy_url)
        if parts.hostname and parts.port != 0 and parts.path in {"", "/"}:
            address = parts.netloc.rpartition("@")[2]  # without the password, which has a header of its own
            return Proxy(f"{parts.scheme}://{address}", configured.proxy_headers_for(proxy_url))
    except ValueError:
        pass  # raised below, outside of this block: the error's text contains the proxy's password
    raise NotConfigured("HTTPS_PROXY must be like http://USER:PASSWORD@HOST:PORT, percent-encoded")


def _variable(session: botocore.session.Session, name: str) -> str | None:
    try:
        value = session.get_config_variable(name)
    except BotoCoreError as error:
        problem = type(error).__name__
    else:
        return str(value) if value else None
    raise NotConfigured(f"the AWS configuration cannot be read ({problem}); fix AWS_PROFILE or ~/.aws/config")
