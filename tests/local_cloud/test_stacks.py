"""Two stacks of one template in one local cloud: each has its own Function URL, and neither disturbs the other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import requests

from local.aws import FUNCTION_URL_PATH
from tests.local_cloud.calling import call, call_url, echo

if TYPE_CHECKING:
    from local.cloud import LocalCloud, Stack
    from local.sdk import Credentials

pytestmark = pytest.mark.cloud


@pytest.fixture(scope="module")
def second(echo_cloud: LocalCloud) -> Stack:
    """A second stack; the name of the main one is a prefix of its name."""
    return echo_cloud.deploy("token-broker-test")


@pytest.fixture(scope="module")
def caller_of_second(echo_cloud: LocalCloud, second: Stack) -> Credentials:
    return echo_cloud.create_caller("caller-of-second", [second.outputs["CallerPolicyArn"]])


def ask(endpoint_url: str, stack_name: str) -> requests.Response:
    """Ask for the address of a stack's Function URL, with an unchanged name: requests would normalise it."""
    with requests.Session() as session:
        session.trust_env = False
        request = session.prepare_request(requests.Request("GET", endpoint_url))
        request.url = f"{endpoint_url}{FUNCTION_URL_PATH}{stack_name}"
        return session.send(request, timeout=30)


def test_each_url_answers_from_its_own_function(
    echo_cloud: LocalCloud, second: Stack, granted: Credentials, caller_of_second: Credentials
) -> None:
    main_answer, second_answer = echo(call(echo_cloud, granted)), echo(call(second, caller_of_second))
    assert main_answer["function_arn"] == f"{echo_cloud.outputs['EchoFunctionArn']}:1"
    assert second_answer["function_arn"] == f"{second.outputs['EchoFunctionArn']}:1"
    assert main_answer["environment"]["BROKER_URL"] == echo_cloud.function_url
    assert second_answer["environment"]["BROKER_URL"] == second.function_url


def test_right_on_one_stack_is_none_on_the_other(
    echo_cloud: LocalCloud, second: Stack, granted: Credentials, caller_of_second: Credentials
) -> None:
    assert call(second, granted).status_code == 403
    assert call(echo_cloud, caller_of_second).status_code == 403


def test_deployment_of_one_stack_leaves_the_other_as_it_is(
    echo_cloud: LocalCloud, second: Stack, granted: Credentials, caller_of_second: Credentials
) -> None:
    main_before = (echo_cloud.function_url, echo_cloud.outputs)
    assert echo_cloud.deploy(second.name, Mark="again") == second
    name, aws_lambda = second.outputs["EchoFunctionName"], echo_cloud.client("lambda")
    configuration = aws_lambda.get_function_configuration(FunctionName=name)
    assert configuration["Environment"]["Variables"]["MARK"] == "again"
    assert (echo_cloud.function_url, echo_cloud.outputs) == main_before
    assert echo(call(echo_cloud, granted))
    assert echo(call(second, caller_of_second))


def test_connection_is_stored_for_the_named_stack_alone(echo_cloud: LocalCloud, second: Stack) -> None:
    echo_cloud.put_connection("side-by-side", {"client_secret": "of-main"})
    echo_cloud.put_connection("side-by-side", {"client_secret": "of-second"}, second.name)
    secrets_manager = echo_cloud.client("secretsmanager")
    for stack_name, value in (("token-broker", "of-main"), (second.name, "of-second")):
        secret = secrets_manager.get_secret_value(SecretId=f"{stack_name}/connections/side-by-side")
        assert json.loads(secret["SecretString"]) == {"client_secret": value}


def test_stack_with_two_urls_is_404_and_the_other_still_answers(
    echo_cloud: LocalCloud, second: Stack, granted: Credentials, caller_of_second: Credentials
) -> None:
    aws_lambda, function = echo_cloud.client("lambda"), second.outputs["EchoFunctionName"]
    aws_lambda.create_function_url_config(FunctionName=function, AuthType="AWS_IAM")
    try:
        assert call(second, caller_of_second).status_code == 404
        assert echo(call(echo_cloud, granted))
        aws_lambda.update_function_url_config(FunctionName=function, AuthType="NONE")
        assert echo(call(second, caller_of_second))
    finally:
        aws_lambda.delete_function_url_config(FunctionName=function)


def test_stack_without_a_url_is_404(echo_cloud: LocalCloud, granted: Credentials) -> None:
    reply = call_url(f"{echo_cloud.find_function_url('nobody')}/", granted)
    assert (reply.status_code, "nobody" in reply.json()["Message"]) == (404, True)


def test_each_stack_has_its_own_unchanging_address(echo_cloud: LocalCloud) -> None:
    names = ("token-broker", "one", "another")
    first, again = ([echo_cloud.find_function_url(name) for name in names] for _ in range(2))
    assert len(set(first)) == 3
    assert again == first
    assert first[0] == echo_cloud.function_url


@pytest.mark.parametrize(
    "name",
    ["", "a%2Fb", "a/b", "..", "1a", "a_b", "a%0A", "a%00", "%C3%A9", "a%20", "a" * 129],
    ids=lambda name: name[:10],
)
def test_name_that_no_stack_can_have_is_refused(echo_cloud: LocalCloud, name: str) -> None:
    reply = ask(echo_cloud.aws_endpoint_url, name)
    assert (reply.status_code, "is no name of a stack" in reply.json()["Message"]) == (400, True)


@pytest.mark.parametrize("name", ["", "a/b", "a/../b", "a?b", "a#b"])
def test_nothing_is_deployed_under_a_name_that_no_stack_can_have(echo_cloud: LocalCloud, name: str) -> None:
    with pytest.raises(requests.HTTPError, match="400"):
        echo_cloud.deploy(name)
