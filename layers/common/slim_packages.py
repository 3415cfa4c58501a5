"""Cuts the layer's third-party packages down to what the functions can reach: `slim_packages.py LAYER/python`.

A start reads all of the SDK's data that it finds. The functions call eight operations of four services (template.yaml
allows them no others), and AWS's own endpoints are signed by five roots: the rest costs a start a third of its time.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

OPERATIONS = {
    "dynamodb": {"GetItem", "PutItem", "UpdateItem"},
    "events": {"DescribeEventBus", "PutEvents"},
    "kms": {"Decrypt", "Encrypt"},
    "secretsmanager": {"GetSecretValue"},
}
AMAZON_ROOTS_FILE = "amazon-roots.pem"
# https://www.amazontrust.com/repository/: the roots of every public AWS endpoint.
AMAZON_ROOTS = {
    "Amazon Root CA 1",
    "Amazon Root CA 2",
    "Amazon Root CA 3",
    "Amazon Root CA 4",
    "Starfield Services Root Certificate Authority - G2",
}
# Replacements of modules that every start loads although no function calls them, or not every one does.
STAND_INS = {
    "botocore/docs/__init__.py": "",
    # The docstring of each client method is one of these.
    "botocore/docs/docstring.py": (
        "class ClientMethodDocstring(str):\n    def __new__(cls, *_, **__):\n        return str.__new__(cls)\n\n\n"
        "PaginatorDocstring = WaiterDocstring = ClientMethodDocstring\n"
    ),
    # Loaded when called: only paginators and waiters parse expressions, only credentials with an expiry parse a date.
    "jmespath/__init__.py": (
        "def compile(expression):\n    from jmespath.parser import Parser\n\n    return Parser().parse(expression)\n\n\n"
        "def search(expression, data, options=None):\n    return compile(expression).search(data, options=options)\n"
    ),
    "dateutil/parser/__init__.py": (
        "def parse(*arguments, **named):\n    from dateutil.parser._parser import parse\n\n    return parse(*arguments, **named)\n"
    ),
    # With importlib.resources it finds its file in a zip as well, for which it loads a dozen modules.
    "certifi/__init__.py": (
        "import os.path\n\n\ndef where():\n    return os.path.join(os.path.dirname(__file__), 'cacert.pem')\n"
    ),
    # The SDK tries it first; it loads what it can before it misses pyOpenSSL.
    "urllib3/contrib/pyopenssl.py": "raise ImportError('the layer has no pyOpenSSL')\n",
    # HTTP/2 needs a package that the layer does not have. The functions wait with no waiter, and repeat in another mode.
    **dict.fromkeys(("urllib3/http2/__init__.py", "botocore/waiter.py", "botocore/retries/adaptive.py"), ""),
}
_CERTIFICATE = re.compile(
    r'# Label: "([^"]+)"\n(?:#[^\n]*\n)*(-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n)',
    re.DOTALL,
)


def keep_reachable_data(data: Path) -> None:
    """Cut botocore's data folder down to OPERATIONS, in place."""
    for folder in data.iterdir():
        if folder.is_dir() and folder.name not in OPERATIONS:
            shutil.rmtree(folder)
    endpoints = data / "endpoints.json"
    partitions = json.loads(endpoints.read_bytes())
    for partition in partitions["partitions"]:
        partition["services"] = {
            name: service for name, service in partition["services"].items() if name in OPERATIONS
        }
    endpoints.write_text(json.dumps(partitions, separators=(",", ":")))
    for name, operations in OPERATIONS.items():
        for version in (data / name).iterdir():
            packed = version / "service-2.json.gz"
            if not packed.exists():  # an old version, of which only examples are left
                shutil.rmtree(version)
                continue
            model = json.loads(gzip.decompress(packed.read_bytes()), object_hook=_without_documentation)
            # Without its rule set, a service's endpoints come from endpoints.json: the same, but no rules are evaluated.
            for file in version.iterdir():
                file.unlink()
            reachable = json.dumps(reachable_model(model, operations), separators=(",", ":"))
            (version / "service-2.json").write_text(reachable)


def reachable_model(model: dict[str, Any], operations: set[str]) -> dict[str, Any]:
    """Return a service model with these operations and the shapes that they use."""
    reachable = {name: operation for name, operation in model["operations"].items() if name in operations}
    shapes: dict[str, Any] = {}
    waiting = _shape_names(list(reachable.values()))
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shapes[name] = model["shapes"][name]
            waiting |= _shape_names(shapes[name])
    return {**model, "operations": reachable, "shapes": shapes}


def write_amazon_roots(bundle: Path, target: Path) -> None:
    """Copy Amazon's roots out of a bundle with certifi's labels.

    Raises:
        SystemExit: the bundle lacks one of them.
    """
    found = dict(_CERTIFICATE.findall(bundle.read_text("utf-8")))
    if missing := AMAZON_ROOTS - set(found):
        raise SystemExit(f"{bundle.name} lacks {', '.join(sorted(missing))}")
    target.write_text("".join(found[label] for label in sorted(AMAZON_ROOTS)))


def _shape_names(value: Any) -> set[str]:
    """Return every shape that a part of a model refers to."""
    if isinstance(value, list):
        return set().union(*map(_shape_names, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    names = set().union(*map(_shape_names, value.values())) if value else set()
    return names | {value["shape"]} if isinstance(value.get("shape"), str) else names


def _without_documentation(members: dict[str, Any]) -> dict[str, Any]:
    # A member of an operation may have the same name.
    return {k: v for k, v in members.items() if k != "documentation" or not isinstance(v, str)}


if __name__ == "__main__":
    packages = Path(sys.argv[1])
    keep_reachable_data(packages / "botocore/data")
    for name, source in STAND_INS.items():
        (packages / name).write_text(source)
    write_amazon_roots(packages / "certifi/cacert.pem", packages / AMAZON_ROOTS_FILE)
