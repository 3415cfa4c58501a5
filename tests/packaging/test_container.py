"""What `sam local` gets: a template for this machine that declares what the file sets, the CA, nothing of the host."""

from __future__ import annotations

import json
import os
import platform
import stat
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from local.build import alone_with_the_build
from local.cloud import PROJECT
from local.container import BUILD, derive_template, write_container_files

CA = "-----BEGIN CERTIFICATE-----"
VARIABLES = {
    "BrokerFunction": {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_SESSION_TOKEN": "session",
        "UPSTREAM_HOSTS": "127.0.0.1:2",
        "UPSTREAM_CA_FILE": "/of/the/host/ca.pem",
    },
    "CampaignsFunction": {"AWS_SESSION_TOKEN": "session", "UPSTREAM_CA_FILE": "/of/the/host/ca.pem"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "container"
    write_container_files(VARIABLES, CA, folder=folder)
    return folder


def template_of(folder: Path) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((folder / "template.json").read_text())
    return template


def test_a_function_declares_what_the_file_sets_and_nothing_else(folder: Path) -> None:
    variables = json.loads((folder / "env.json").read_text())
    declared = {
        name: resource["Properties"]["Environment"]["Variables"]
        for name, resource in template_of(folder)["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }

    assert declared.keys() == variables.keys()
    assert all(declared[name].keys() == variables[name].keys() for name in declared)
    # The values are in the file alone: the shell's values would replace the template's.
    assert {value for its in declared.values() for value in its.values()} == {""}


def test_a_function_that_has_no_variables_is_left_out(tmp_path: Path) -> None:
    write_container_files({"BrokerFunction": VARIABLES["BrokerFunction"]}, CA, folder=tmp_path / "container")

    assert "CampaignsFunction" not in template_of(tmp_path / "container")["Resources"]


def test_it_is_for_this_machine(folder: Path) -> None:
    machine = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    template = template_of(folder)
    layer = template["Resources"]["CommonLayer"]

    assert template["Globals"]["Function"]["Architectures"] == [machine]
    assert layer["Properties"]["CompatibleArchitectures"] == [machine]
    assert layer["Metadata"]["BuildArchitecture"] == machine


def test_everything_else_is_as_built(folder: Path) -> None:
    built, derived = yaml_parse((BUILD / "template.yaml").read_text()), template_of(folder)
    functions = {name for name, r in built["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}
    for name in functions - VARIABLES.keys():
        del built["Resources"][name]
    for template in (built, derived):
        for name in (*VARIABLES, "CommonLayer"):
            for member in ("Environment", "CompatibleArchitectures"):
                template["Resources"][name]["Properties"].pop(member, None)
        template["Resources"]["CommonLayer"]["Metadata"].pop("BuildArchitecture")
        template["Globals"]["Function"].pop("Architectures")

    assert derived == built


def test_code_and_ca_are_where_the_template_and_the_variables_say(folder: Path) -> None:
    said = {name: its["Properties"] for name, its in template_of(folder)["Resources"].items()}
    for name, its in json.loads((folder / "env.json").read_text()).items():
        code, handler = folder / said[name]["CodeUri"], said[name]["Handler"].rpartition(".")[0]
        assert (code / Path(its["UPSTREAM_CA_FILE"]).relative_to("/var/task")).read_text() == CA
        assert (code / f"{handler.replace('.', '/')}.py").is_file()
    assert (folder / said["CommonLayer"]["ContentUri"] / "python/token_broker/client.py").is_file()


def test_no_address_or_path_of_the_host_is_left(folder: Path) -> None:
    text = (folder / "env.json").read_text() + (folder / "template.json").read_text()

    assert "localhost:1" in text
    assert "127.0.0.1" not in text
    assert "/of/the/host" not in text
    assert str(PROJECT) not in text


def test_nobody_else_reads_the_keys(folder: Path) -> None:
    write_container_files(VARIABLES, CA, folder=folder)  # over what was there

    assert stat.S_IMODE((folder / "env.json").stat().st_mode) == 0o600


def test_a_new_build_is_copied_and_unchanged_files_are_not_touched(folder: Path) -> None:
    """The code may be running, and start-lambda starts a new container when a file changes."""
    function = folder / "BrokerFunction"
    files = set(function.rglob("*.py"))
    changed, missing = (function / f"functions/broker/{name}.py" for name in ("handler", "grants"))
    was = changed.read_text()
    os.utime(function / "functions/broker/decide.py", (1, 1))
    changed.write_text("of the build before")
    missing.unlink()
    (function / "deleted.py").touch()

    write_container_files(VARIABLES, CA, folder=folder)

    assert changed.read_text() == was
    assert set(function.rglob("*.py")) == files
    assert (function / "functions/broker/decide.py").stat().st_mtime == 1


def test_it_waits_for_a_build_that_is_under_way(tmp_path: Path) -> None:
    """`sam build` empties its folder first."""
    writing = threading.Thread(target=write_container_files, args=(VARIABLES, CA, tmp_path / "container"))
    with alone_with_the_build():
        writing.start()
        writing.join(0.5)
        assert writing.is_alive()
        assert not (tmp_path / "container").exists()
    writing.join(60)
    assert (tmp_path / "container/env.json").exists()


def test_a_variable_that_the_template_has_since_then_is_not_declared() -> None:
    """After a build while the cloud is up, the file does not have it, and SAM would take the shell's value."""
    template = yaml_parse((BUILD / "template.yaml").read_text())
    template["Resources"]["BrokerFunction"]["Properties"]["Environment"]["Variables"]["AWS_PROFILE"] = "x"

    derived = derive_template(template, VARIABLES)["Resources"]["BrokerFunction"]["Properties"]

    assert set(derived["Environment"]["Variables"]) == set(VARIABLES["BrokerFunction"])


def test_sam_finds_all_of_it_without_an_argument() -> None:
    """In the environment `default`. Another one would need its name: without it SAM would take the built template."""
    settings = tomllib.loads((PROJECT / "samconfig.toml").read_text())

    assert set(settings) == {"version", "default", "test"}
    assert set(settings["test"]) == {"deploy"}
    for command in ("local_invoke", "local_start_lambda"):
        parameters = settings["default"][command]["parameters"]
        assert parameters["template_file"] == ".local/container/template.json"
        assert parameters["env_vars"] == ".local/container/env.json"
        assert "skip_pull_image" not in parameters
