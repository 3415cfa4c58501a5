"""What SAM's containers need of a local cloud, in `.local/container/` while `make local` runs.

    template.json   the built template, for this machine's architecture
    env.json        each function's variables, its role's keys among them: for its owner's eyes only
    NAME/           the built code of each function and of the layer; a function's also has the local Digishare's CA

SAM drops every variable that a template does not declare. A declared variable that its file lacks gets the shell's
value, so that a function without its variables would have the developer's keys and no endpoint. So each function
declares exactly what `env.json` sets.

`python -m local.container` brings a new build to a cloud that runs; `make build` calls it.
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import shutil
from typing import TYPE_CHECKING, Any, Final

from samtranslator.yaml_helper import yaml_parse

from local.build import alone_with_the_build
from local.cloud import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BUILD: Final = PROJECT / ".aws-sam/build"
CONTAINER_FOLDER: Final = PROJECT / ".local/container"
FUNCTIONS: Final = {"broker": "BrokerFunction", "campaigns": "CampaignsFunction"}
"""Logical ids by the names that `make invoke` takes."""
CA_FILE_NAME: Final = "local-ca.pem"
_TEMPLATE: Final = "template.json"
_VARIABLES: Final = "env.json"


def lambda_architecture() -> str:
    """Return what Lambda calls this machine's architecture."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def write_container_files(
    variables: Mapping[str, Mapping[str, str]], ca: str, folder: Path = CONTAINER_FOLDER
) -> None:
    """Write all files from what `sam build` has made.

    Args:
        variables: of each function, by its logical id. A function without any is left out of the template.
        ca: the local Digishare's CA, in PEM.
        folder: where to write. Files that stay the same are not written, because something may be running them.
    """
    variables = {function: _as_seen_inside(its) for function, its in variables.items()}
    with alone_with_the_build():
        template = derive_template(yaml_parse((BUILD / "template.yaml").read_text()), variables)
        for code in BUILD.iterdir():
            if code.name in template["Resources"]:
                _mirror(code, folder / code.name)
    for function in variables:
        (folder / function / CA_FILE_NAME).write_text(ca)
    (folder / _TEMPLATE).write_text(json.dumps(template, indent=1))
    write_private(folder / _VARIABLES, json.dumps(variables, indent=1))


def derive_template(template: dict[str, Any], variables: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the built template with the functions of `variables` alone, declaring these, for this machine."""
    architectures = [lambda_architecture()]
    template["Globals"]["Function"]["Architectures"] = architectures
    for name, resource in list(template["Resources"].items()):
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["CompatibleArchitectures"] = architectures
            resource["Metadata"]["BuildArchitecture"] = architectures[0]
        elif resource["Type"] == "AWS::Serverless::Function":
            if name in variables:
                resource["Properties"]["Environment"] = {"Variables": dict.fromkeys(variables[name], "")}
            else:
                del template["Resources"][name]
    return template


def read_properties(function: str, folder: Path = CONTAINER_FOLDER) -> dict[str, Any]:
    """Return what the template says of a function; raises FileNotFoundError while no local cloud runs."""
    template = json.loads((folder / _TEMPLATE).read_text())
    return dict(template["Resources"][function]["Properties"])


def read_variables(folder: Path = CONTAINER_FOLDER) -> dict[str, dict[str, str]]:
    """Return each function's variables; raises FileNotFoundError while no local cloud runs."""
    return dict(json.loads((folder / _VARIABLES).read_text()))


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _mirror(source: Path, target: Path) -> None:
    """Make `target` like `source`, but for the CA."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target) not in wanted and path.name != CA_FILE_NAME:
            path.unlink()
    for name in wanted:
        if not (target / name).exists() or not filecmp.cmp(source / name, target / name, shallow=False):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def _as_seen_inside(variables: Mapping[str, str]) -> dict[str, str]:
    """A container is not on the host's loopback (`--add-host` says where `localhost` is) and has none of its files."""
    seen = {name: value.replace("127.0.0.1", "localhost") for name, value in variables.items()}
    return {**seen, "UPSTREAM_CA_FILE": f"/var/task/{CA_FILE_NAME}"}


def main() -> None:
    variables = read_variables()
    ca = (CONTAINER_FOLDER / next(iter(variables)) / CA_FILE_NAME).read_text()
    write_container_files(variables, ca)


if __name__ == "__main__":
    main()
