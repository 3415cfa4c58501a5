"""Each role of the stack can do its work, and what it must not do is denied: by calls on the local AWS, one by one.

The text of the policies is in tests/packaging/permissions.txt. What the local AWS does not enforce is in
docs/deploying.md.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from botocore.exceptions import ClientError

from functions.campaigns.adapters import event_bus
from tests.local_cloud.calling import EVERYTHING, call, new_caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from local.cloud import LocalCloud
    from local.sdk import Credentials

pytestmark = pytest.mark.cloud

CONTEXT: Final = {"connection": "digishare", "fence": "1", "expires_at": "none"}
KEY: Final = {"connection": {"S": "permissions"}, "record": {"S": "token"}}
PART: Final = {"part": {"S": "permissions"}}


class Stack:
    """The deployed stack, and calls to it as one of its roles."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._cloud = cloud
        self.outputs = cloud.outputs
        self.broker = cloud.outputs["BrokerFunctionName"]
        self.campaigns = cloud.outputs["CampaignsFunctionName"]
        look = cloud.client("lambda").get_function_configuration
        functions = {name: look(FunctionName=getattr(self, name)) for name in ("broker", "campaigns")}
        schedule = cloud.client("scheduler").get_schedule(Name=cloud.outputs["CampaignsScheduleName"])
        self.role_arns = {name: function["Role"] for name, function in functions.items()}
        self.role_arns["scheduler"] = schedule["Target"]["RoleArn"]
        self.queue = cloud.outputs["CampaignsDeadLetterQueueUrl"]
        self.logs = {name: function["LoggingConfig"]["LogGroup"] for name, function in functions.items()}
        self._keys: dict[str, Credentials] = {}

    def keys(self, who: str) -> Credentials:
        """Return the keys of one of the stack's roles, of a caller, or of an administrator."""
        if who not in self._keys:
            arn = self.role_arns.get(who)
            self._keys[who] = self._cloud.assume(arn) if arn else self._new(who)
        return self._keys[who]

    def _new(self, who: str) -> Credentials:
        policy = self.outputs["CallerPolicyArn"] if who.startswith("caller") else ""
        more = [EVERYTHING] if who in {"administrator", "caller-and-more"} else []
        return new_caller(self._cloud, f"local-{who}-{uuid.uuid4().hex[:6]}", *more, policy=policy)

    def client(self, who: str, service: str) -> Any:
        return self._cloud.client(service, self.keys(who))

    def call_url(self, who: str) -> requests.Response:
        return call(self._cloud, self.keys(who), "/token")


@pytest.fixture(scope="module")
def stack(cloud: LocalCloud) -> Iterator[Stack]:
    stack = Stack(cloud)
    prefix = stack.outputs["SecretPrefix"]
    for name in (f"{prefix}-test/permissions", f"{prefix}x", "elsewhere/permissions"):
        cloud.client("secretsmanager").create_secret(Name=name, SecretString="{}")
    cloud.put_connection("permissions", {"client_id": "none", "client_secret": "none"})
    yield stack
    cloud.client("sqs").purge_queue(QueueUrl=stack.queue)
    cloud.client("dynamodb").delete_item(TableName=stack.outputs["TokenTableName"], Key=KEY)


def seal(stack: Stack, who: str, context: dict[str, str] = CONTEXT) -> bytes:
    key, kms = stack.outputs["TokenKeyArn"], stack.client(who, "kms")
    return bytes(kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext=context)["CiphertextBlob"])


def open_sealed(stack: Stack, who: str) -> None:
    on_key(stack, who, "decrypt", CiphertextBlob=seal(stack, "broker"), EncryptionContext=CONTEXT)


def on_key(stack: Stack, who: str, operation: str, **members: Any) -> None:
    getattr(stack.client(who, "kms"), operation)(KeyId=stack.outputs["TokenKeyArn"], **members)


def grant_key(stack: Stack, who: str) -> None:
    on_key(stack, who, "create_grant", GranteePrincipal=stack.role_arns["campaigns"], Operations=["Decrypt"])


def report_failure(stack: Stack, who: str) -> None:
    stack.client(who, "sqs").send_message(QueueUrl=stack.queue, MessageBody="{}")


def become(stack: Stack, role: str) -> None:
    stack.keys(role)  # tests may assume it; afterwards its trust policy is as before
    stack.client("administrator", "sts").assume_role(RoleArn=stack.role_arns[role], RoleSessionName="other")


def read_secret(stack: Stack, who: str, name: str | None = None) -> None:
    name = name or f"{stack.outputs['SecretPrefix']}/permissions"
    stack.client(who, "secretsmanager").get_secret_value(SecretId=name)


def send_event(
    stack: Stack, who: str, source: str, kind: str = event_bus.DETAIL_TYPE, bus: str = "default"
) -> None:
    entry = {"Source": source, "DetailType": kind, "Detail": "{}", "EventBusName": bus}
    stack.client(who, "events").put_events(Entries=[entry])


def invoke(stack: Stack, who: str, function: str, kind: str = "RequestResponse") -> None:
    stack.client(who, "lambda").invoke(FunctionName=function, InvocationType=kind, Payload=b"{}")


def on_table(stack: Stack, who: str, operation: str, table: str = "TokenTableName", **members: Any) -> None:
    getattr(stack.client(who, "dynamodb"), operation)(TableName=stack.outputs[table], **members)


Call = tuple[str, str, "Callable[[Stack], object]"]

ALLOWED: Final[list[Call]] = [
    ("broker", "reads an item", lambda s: on_table(s, "broker", "get_item", Key=KEY)),
    ("broker", "puts a row", lambda s: on_table(s, "broker", "put_item", Item=KEY)),
    ("broker", "updates an item", lambda s: on_table(s, "broker", "update_item", Key=KEY)),
    ("broker", "seals a token", lambda s: seal(s, "broker")),
    ("broker", "opens a token", lambda s: open_sealed(s, "broker")),
    ("broker", "reads a connection's secret", lambda s: read_secret(s, "broker")),
    ("campaigns", "reads its snapshot",
        lambda s: on_table(s, "campaigns", "get_item", "CampaignsTableName", Key=PART)),
    ("campaigns", "writes its snapshot",
        lambda s: on_table(s, "campaigns", "put_item", "CampaignsTableName", Item=PART)),
    ("campaigns", "sends its events", lambda s: send_event(s, "campaigns", event_bus.SOURCE)),
    ("campaigns", "finds its bus", lambda s: s.client("campaigns", "events").describe_event_bus(Name="default")),
    ("campaigns", "reports a failed run", lambda s: report_failure(s, "campaigns")),
    ("scheduler", "runs the job", lambda s: invoke(s, "scheduler", f"{s.campaigns}:live", "DryRun")),
    ("scheduler", "reports what it cannot deliver", lambda s: report_failure(s, "scheduler")),
    ("administrator", "looks at the key", lambda s: on_key(s, "administrator", "describe_key")),
    ("administrator", "looks at its policy",
        lambda s: on_key(s, "administrator", "get_key_policy", PolicyName="default")),
]  # fmt: skip

DENIED: Final[list[Call]] = [
    ("broker", "a log group", lambda s: s.client("broker", "logs").create_log_group(logGroupName="more")),
    ("broker", "its own log's lines",
        lambda s: s.client("broker", "logs").filter_log_events(logGroupName=s.logs["broker"])),
    ("broker", "to delete an item", lambda s: on_table(s, "broker", "delete_item", Key=KEY)),
    ("broker", "to query",
        lambda s: on_table(s, "broker", "query", KeyConditionExpression="#c = :c",
            ExpressionAttributeNames={"#c": "connection"}, ExpressionAttributeValues={":c": {"S": "a"}})),
    ("broker", "to scan", lambda s: on_table(s, "broker", "scan")),
    ("broker", "the campaigns' table",
        lambda s: on_table(s, "broker", "get_item", "CampaignsTableName", Key=PART)),
    ("broker", "to seal without a context", lambda s: seal(s, "broker", {})),
    *(("broker", f"to seal without {name}",
        lambda s,
        name=name: seal(s, "broker", {k: v for k, v in CONTEXT.items() if k != name})) for name in CONTEXT),
    ("broker", "a data key",
        lambda s: on_key(s, "broker", "generate_data_key", KeySpec="AES_256", EncryptionContext=CONTEXT)),
    ("broker", "a grant on the key", lambda s: grant_key(s, "broker")),
    ("broker", "the key's policy",
        lambda s: on_key(s, "broker", "put_key_policy", PolicyName="default", Policy="{}")),
    ("broker", "a test stack's secret",
        lambda s: read_secret(s, "broker", f"{s.outputs['SecretPrefix']}-test/permissions")),
    ("broker", "a secret beside its folder", lambda s: read_secret(s, "broker", f"{s.outputs['SecretPrefix']}x")),
    ("broker", "any other secret", lambda s: read_secret(s, "broker", "elsewhere/permissions")),
    ("broker", "to store a secret",
        lambda s: s.client("broker", "secretsmanager").put_secret_value(
            SecretId=f"{s.outputs['SecretPrefix']}/permissions", SecretString="{}")),
    ("broker", "to invoke itself", lambda s: invoke(s, "broker", s.broker)),
    ("broker", "the campaigns job", lambda s: invoke(s, "broker", f"{s.campaigns}:live")),
    ("broker", "to send events", lambda s: send_event(s, "broker", event_bus.SOURCE)),
    ("campaigns", "the token table", lambda s: on_table(s, "campaigns", "get_item", Key=KEY)),
    ("campaigns", "to write to the token table", lambda s: on_table(s, "campaigns", "put_item", Item=KEY)),
    ("campaigns", "to seal a token", lambda s: seal(s, "campaigns")),
    ("campaigns", "to open a token", lambda s: open_sealed(s, "campaigns")),
    ("campaigns", "a connection's secret", lambda s: read_secret(s, "campaigns")),
    ("campaigns", "to send others' events", lambda s: send_event(s, "campaigns", "aws.s3")),
    ("campaigns", "another kind of event",
        lambda s: send_event(s, "campaigns", event_bus.SOURCE, "Object Created")),
    ("campaigns", "another bus", lambda s: send_event(s, "campaigns", event_bus.SOURCE, bus="other")),
    ("campaigns", "to read failed runs", lambda s: s.client("campaigns", "sqs").receive_message(QueueUrl=s.queue)),
    ("campaigns", "itself", lambda s: invoke(s, "campaigns", s.campaigns)),
    ("scheduler", "the job's code without an alias", lambda s: invoke(s, "scheduler", s.campaigns, "DryRun")),
    ("scheduler", "the broker", lambda s: invoke(s, "scheduler", f"{s.broker}:live", "DryRun")),
    ("scheduler", "a connection's secret", lambda s: read_secret(s, "scheduler")),
    ("caller", "the token table", lambda s: on_table(s, "caller", "get_item", Key=KEY)),
    ("caller", "to open a token", lambda s: open_sealed(s, "caller")),
    ("caller", "a connection's secret", lambda s: read_secret(s, "caller")),
    *(("administrator", f"to become the {role}", lambda s, role=role: become(s, role))
        for role in ("broker", "campaigns", "scheduler")),
    *(("administrator", f"to {name}", call) for name, call in (
        ("seal a token", lambda s: seal(s, "administrator")),
        ("open a token", lambda s: open_sealed(s, "administrator")),
        ("re-encrypt a token",
            lambda s: s.client("administrator", "kms").re_encrypt(CiphertextBlob=seal(s, "broker"),
                SourceKeyId=s.outputs["TokenKeyArn"], SourceEncryptionContext=CONTEXT,
                DestinationKeyId=s.outputs["TokenKeyArn"])),
        ("make a data key", lambda s: on_key(s, "administrator", "generate_data_key", KeySpec="AES_256")),
        ("make a grant", lambda s: grant_key(s, "administrator")),
    )),
    *((who, f"{kind} of the broker{qualifier}",
        lambda s, who=who, kind=kind, qualifier=qualifier: invoke(s, who, f"{s.broker}{qualifier}", kind))
      for who in ("caller", "caller-and-more", "campaigns", "administrator")
      for qualifier in ("", ":live", ":$LATEST", ":1")
      for kind in ("RequestResponse", "Event", "DryRun")),
]  # fmt: skip


def each_of(calls: list[Call]) -> pytest.MarkDecorator:
    works = [pytest.param(work, id=f"{who}-{what}") for who, what, work in calls]
    return pytest.mark.parametrize("work", works)


@each_of(ALLOWED)
def test_each_role_can_do_its_work(stack: Stack, work: Callable[[Stack], object]) -> None:
    work(stack)


@each_of(DENIED)
def test_what_a_role_must_not_do_is_denied(stack: Stack, work: Callable[[Stack], object]) -> None:
    with pytest.raises(ClientError) as refused:
        work(stack)

    assert refused.value.response["Error"]["Code"] in {"AccessDenied", "AccessDeniedException"}


@pytest.mark.parametrize("action", ["logs:CreateLogStream", "logs:PutLogEvents"])
@pytest.mark.parametrize("who", ["broker", "campaigns"])
@pytest.mark.parametrize("group", ["broker", "campaigns"])
def test_functions_write_own_logs(cloud: LocalCloud, stack: Stack, who: str, group: str, action: str) -> None:
    # Asked of IAM: a call would not tell, because the local AWS names the group where AWS names the stream.
    stream = f"arn:aws:logs:{cloud.region}:{cloud.account_id}:log-group:{stack.logs[group]}:log-stream:a"
    answer = cloud.client("iam").simulate_principal_policy(
        PolicySourceArn=stack.role_arns[who], ActionNames=[action], ResourceArns=[stream]
    )

    decision = answer["EvaluationResults"][0]["EvalDecision"]
    assert decision == ("allowed" if who == group else "implicitDeny")


@pytest.mark.parametrize("who", ["caller", "caller-and-more", "campaigns"])
def test_who_has_the_caller_policy_can_call_the_url(stack: Stack, who: str) -> None:
    assert stack.call_url(who).status_code == 200


@pytest.mark.parametrize("who", ["broker", "scheduler", "stranger"])
def test_who_lacks_the_caller_policy_cannot_call_the_url(stack: Stack, who: str) -> None:
    assert (stack.call_url(who).status_code, stack.call_url(who).json()["Message"]) == (403, "Forbidden")
