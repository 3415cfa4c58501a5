"""Every kind of caller replaces a token that Digishare has revoked, over signed HTTP."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import CREDENTIAL
from tests.recipes.programs import CAMPAIGNS, json_values, run, run_python, uses_of_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from local.cloud import LocalCloud

pytestmark = pytest.mark.cloud


def revoke_token_of(cloud: LocalCloud, connection: str, environment: dict[str, str], folder: Path) -> str:
    """Make the connection's first token, old enough to be replaced, and revoke it; return its id."""
    cloud.put_connection(connection, CREDENTIAL)
    lease: dict[str, Any] = json_values(run(["token-broker", "token", "--json"], environment, folder))[0]
    cloud.client("dynamodb").update_item(
        TableName=cloud.outputs["TokenTableName"],
        Key={"connection": {"S": connection}, "record": {"S": "token"}},
        UpdateExpression="SET #token.issued_at_epoch_s = :then",
        ExpressionAttributeNames={"#token": "token"},
        ExpressionAttributeValues={":then": {"N": f"{time.time() - 600:.3f}"}},
    )
    cloud.retire_instances(cloud.outputs["BrokerFunctionName"])
    cloud.steer_digishare("POST", "/revoke", {"token_id": lease["token_id"]})
    return str(lease["token_id"])


@pytest.mark.parametrize("way", ["requests", "httpx", "httpx-async", "command line"])
def test_every_caller_goes_on_with_the_next_token(
    cloud: LocalCloud,
    environment: dict[str, str],
    operator_environment: dict[str, str],
    tmp_path: Path,
    way: str,
) -> None:
    connection = f"revoked-{way.replace(' ', '-')}"
    environment["TOKEN_BROKER_CONNECTION"] = operator_environment["TOKEN_BROKER_CONNECTION"] = connection
    revoked = revoke_token_of(cloud, connection, environment, tmp_path)

    if way == "command line":
        shown = run(["bash", "-c", "token-broker get '/campaigns?limit=1' 2>&1"], environment, tmp_path)
        note, _, answer = shown.partition("\n")
        assert revoked in note
        assert len(json.loads(answer)["data"]) == 1
    else:
        expected = "{200}" if way == "httpx-async" else str(CAMPAIGNS)
        assert run_python(way, environment, tmp_path).strip() == expected

    uses = uses_of_tokens(cloud.outputs["TokenTableName"], operator_environment, tmp_path)
    assert len(uses) == 2
    assert uses.pop(revoked) == "still leased"
    assert list(uses.values()) == ["in service"]
