"""The commands of "When the broker is gone", run as they are there, on a local cloud that the tests break.

Only Digishare's address is another one. The local AWS knows neither policy variables nor MFA. So the trust policy has
the person's name instead of the variable, and the condition on MFA is removed once a test has seen it refuse.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from botocore.exceptions import ClientError

from local.sdk import ROOT, Credentials
from local.waiting import wait_until
from tests.conftest import CANARY_SECRET, CREDENTIAL, create_token_table
from tests.local_cloud.calling import call, cloud_with_a_copied_build
from tests.recipes.conftest import environment_of
from tests.recipes.page import DOCS, read_blocks, texts
from tests.recipes.programs import localised, run, uses_of_tokens
from token_broker.issued_token import ClearToken, Token, token_id_of
from token_broker.ledger_row import Mint, item_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from local.cloud import LocalCloud

PAGE = DOCS / "when-the-broker-is-gone.md"
COMMANDS = texts("recipe", PAGE)
CONTEXT: Final = {"connection": "digishare", "fence": "1", "expires_at": "none"}
TOKEN_ITEM: Final = {"connection": {"S": "digishare"}, "record": {"S": "token"}}

_TOKEN = Token("0123456789abcdef", 1.0, 2.0, 1.0, "scope", "")
A_ROW = Mint("digishare", 0, "by-hand", 1.0, "by hand", "ada", "").issued(ClearToken(_TOKEN, "token"))
"""With every attribute that a row can have."""

pytestmark = [
    pytest.mark.cloud,
    pytest.mark.skipif(shutil.which("aws") is None, reason="the AWS command line is not installed"),
    pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed"),
]


class Broken:
    """A cloud with a stack whose parts the tests remove, and a person at a shell.

    Commands run in `folder`; `.aws-sam/build` below it is deployed. `names` are what the page's first commands print.
    """

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder
        cloud.deploy()
        cloud.put_connection("digishare", CREDENTIAL)
        self._caller = cloud.create_caller("local-gone", [cloud.outputs["CallerPolicyArn"]])
        self.names: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        self.note_names()

    def note_names(self) -> None:
        names = ("STACK", "CONNECTION", "FUNCTION", "TABLE", "KEY", "PREFIX")
        shown = self.shell("gone-names", then="".join(f'echo "${name}"\n' for name in names))
        self.names = dict(zip(names, shown.split(), strict=True))

    def shell(
        self, name: str, keys: Credentials = ROOT, *, then: str = "", folder: Path | None = None, **more: str
    ) -> str:
        """Run a block of the page with somebody's keys, and `then` in the same shell; return what they print."""
        environment = environment_of(self.cloud, keys) | self.names | more
        del environment["PYTHONWARNINGS"]  # the AWS command line may warn
        environment |= {"AWS_DEFAULT_REGION": self.cloud.region, "AWS_PAGER": "", "TMPDIR": str(self.folder)}
        text = localised(self.changed.get(name, COMMANDS[name]), environment) + then
        return run(["bash", "-euo", "pipefail", "-c", text], environment, folder or self.folder)

    def ask(self) -> Any:
        """Call the broker; its instances are fresh."""
        self.cloud.retire_instances(self.cloud.outputs["BrokerFunctionName"])
        return self.ask_again()

    def ask_again(self) -> Any:
        return call(self.cloud, self._caller, "/token")

    def token_id(self) -> str:
        """Return the id of the token that a call brings."""
        answer = self.ask()
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token_id"])

    def mints(self, *options: str) -> dict[str, str]:
        """Return what the ledger says of each token."""
        return uses_of_tokens(self.names["TABLE"], environment_of(self.cloud, ROOT), self.folder, *options)

    def logs(self) -> str:
        return "\n".join(self.cloud.function_logs(self.names["FUNCTION"]))

    def token_requests(self) -> int:
        return int(self.cloud.steer_digishare("GET", "/state")["mint_count"])


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("gone")
    with cloud_with_a_copied_build(folder) as cloud:
        yield Broken(cloud, folder)


def filled(broken: Broken, name: str) -> str:
    """Return a policy of the page with this cloud's names in it, and its example people replaced."""
    values = {**broken.names, "REGION": broken.cloud.region, "ACCOUNT": broken.cloud.account_id}
    words = r"\b(REGION|ACCOUNT|PREFIX|CONNECTION|TABLE)\b"
    return re.sub(words, lambda word: values[word[0]], COMMANDS[name])


@pytest.fixture(scope="module")
def emergency(broken: Broken) -> Credentials:
    """The session of a person in the page's role, made by its two policies."""
    create_token_table(broken.cloud.client("dynamodb"))  # a second one, for a test below
    iam = broken.cloud.client("iam")
    iam.create_user(UserName="ada")
    # On AWS the trust policy is enough.
    may_assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": may_assume})
    iam.put_user_policy(UserName="ada", PolicyName="a", PolicyDocument=document)
    key = iam.create_access_key(UserName="ada")["AccessKey"]
    person = Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    trust = filled(broken, "gone-trust").replace("${aws:username}", "ada")
    name = "token-by-hand"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=filled(broken, "gone-policy"))
    sts = broken.cloud.client("sts", person)
    with pytest.raises(ClientError, match="AccessDenied"):  # without MFA
        sts.assume_role(RoleArn=arn, RoleSessionName="ada")

    without_mfa = json.loads(trust)
    del without_mfa["Statement"][0]["Condition"]["Bool"]
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(without_mfa))
    with pytest.raises(ClientError, match="AccessDenied"):  # under another's name
        sts.assume_role(RoleArn=arn, RoleSessionName="grace")
    session = sts.assume_role(RoleArn=arn, RoleSessionName="ada")["Credentials"]
    return Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])


def test_every_command_of_the_page_is_run_here_or_said_not_to_be() -> None:
    text = Path(__file__).read_text()

    assert [name for name in COMMANDS if f'"{name}"' not in text] == []
    assert [block.name for block in read_blocks(PAGE)] == list(COMMANDS)


def test_with_a_disabled_key_a_person_gets_a_token_by_hand(broken: Broken, emergency: Credentials) -> None:
    in_service = broken.token_id()
    kms, key = broken.cloud.client("kms"), broken.names["KEY"]
    kms.disable_key(KeyId=key)

    assert broken.ask_again().status_code == 200  # from memory
    refused = broken.ask()

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) == 60
    assert broken.shell("gone-key-state") == "Disabled\n"
    exchanges = broken.token_requests()

    told = broken.shell("gone-exchange", emergency, then='pwd; echo "$SINCE"; stat -c %a answer.json')

    place, since, mode = told.split()
    folder = Path(place)
    assert mode == "600"
    assert broken.token_requests() == exchanges + 1
    called = json.loads(broken.shell("gone-call", emergency, folder=folder))
    assert len(called["data"]) == 1
    token = json.loads((folder / "answer.json").read_text())["access_token"]

    broken.shell("gone-key-enable")
    assert broken.token_id() == in_service
    recorded = broken.shell("gone-record", emergency, folder=folder, SINCE=since)

    assert token_id_of(token) in recorded
    assert not (folder / "answer.json").exists()
    assert broken.mints() == {in_service: "in service", token_id_of(token): "still leased"}
    assert ":assumed-role/token-by-hand/ada" in broken.shell("gone-list")
    assert broken.token_id() == in_service
    logs = broken.logs()
    assert "AwsRefused" in logs
    assert token_id_of(token) not in logs
    for secret in (token, CANARY_SECRET):
        assert secret not in told + recorded + logs + refused.text
    broken.shell("gone-trail")  # the local CloudTrail records nothing: only the syntax is tested


DENIED: Final[dict[str, Callable[[Broken, Callable[[str], Any]], object]]] = {
    "another secret": lambda b, as_role:
        as_role("secretsmanager").get_secret_value(SecretId=f"{b.names['PREFIX']}/other"),
    "to store a secret": lambda b, as_role:
        as_role("secretsmanager").put_secret_value(SecretId=f"{b.names['PREFIX']}/digishare",
        SecretString="{}"),
    "to open a token": lambda b, as_role:
        as_role("kms").decrypt(KeyId=b.names["KEY"], CiphertextBlob=b"x", EncryptionContext=CONTEXT),
    "to seal a token": lambda b, as_role:
        as_role("kms").encrypt(KeyId=b.names["KEY"], Plaintext=b"x", EncryptionContext=CONTEXT),
    "to enable the key": lambda b, as_role: as_role("kms").enable_key(KeyId=b.names["KEY"]),
    "to read an item": lambda b, as_role: as_role("dynamodb").get_item(TableName=b.names["TABLE"], Key=TOKEN_ITEM),
    "to read the ledger": lambda b, as_role: as_role("dynamodb").scan(TableName=b.names["TABLE"]),
    "to change an item": lambda b, as_role:
        as_role("dynamodb").update_item(TableName=b.names["TABLE"], Key=TOKEN_ITEM),
    "to delete a row": lambda b, as_role:
        as_role("dynamodb").delete_item(TableName=b.names["TABLE"], Key=TOKEN_ITEM),
    "another table": lambda b, as_role: as_role("dynamodb").put_item(TableName="tokens", Item=item_of(A_ROW)),
    "to invoke the broker": lambda b, as_role:
        as_role("lambda").invoke(FunctionName=b.names["FUNCTION"], Payload=b"{}"),
    "the stack": lambda b, as_role: as_role("cloudformation").describe_stacks(StackName="token-broker"),
    "to give itself more": lambda b, as_role:
        as_role("iam").put_role_policy(RoleName="token-by-hand", PolicyName="more", PolicyDocument="{}"),
}  # fmt: skip


@pytest.mark.parametrize("name", DENIED)
def test_the_emergency_role_can_do_nothing_else(broken: Broken, emergency: Credentials, name: str) -> None:
    with pytest.raises(ClientError) as refused:
        DENIED[name](broken, lambda service: broken.cloud.client(service, emergency))

    assert refused.value.response["Error"]["Code"] in {"AccessDenied", "AccessDeniedException"}


def test_it_may_write_rows_of_one_connection_and_no_item(broken: Broken, emergency: Credentials) -> None:
    dynamodb, table = broken.cloud.client("dynamodb", emergency), broken.names["TABLE"]
    row = item_of(A_ROW)
    of_the_item: list[dict[str, Any]] = [
        {"token": {"M": {}}},
        {"generation": {"N": "1"}},
        {"lock_owner": {"S": "a"}},
    ]

    for more in ({"connection": {"S": "other"}}, *of_the_item):
        with pytest.raises(ClientError, match="AccessDenied"):
            dynamodb.put_item(TableName=table, Item=row | more)
    dynamodb.put_item(TableName=table, Item=row)

    key = {name: row[name] for name in ("connection", "record")}
    broken.cloud.client("dynamodb").delete_item(TableName=table, Key=key)


def test_with_these_attributes_no_token_is_put_into_service(broken: Broken, emergency: Credentials) -> None:
    in_service = broken.token_id()
    dynamodb, table = broken.cloud.client("dynamodb"), broken.names["TABLE"]
    item = dynamodb.get_item(TableName=table, Key=TOKEN_ITEM)["Item"]
    broken.cloud.client("dynamodb", emergency).put_item(TableName=table, Item=item_of(A_ROW) | TOKEN_ITEM)

    refused = broken.ask()

    assert refused.status_code == 503
    assert wait_until(lambda: "MalformedItem" in broken.logs())
    dynamodb.put_item(TableName=table, Item=item)
    assert broken.token_id() == in_service


def test_the_deletion_of_a_key_can_be_cancelled(broken: Broken) -> None:
    in_service = broken.token_id()
    broken.cloud.client("kms").schedule_key_deletion(KeyId=broken.names["KEY"], PendingWindowInDays=7)

    assert broken.ask().status_code == 503
    assert broken.shell("gone-key-state") == "PendingDeletion\n"
    broken.shell("gone-key-cancel")
    assert broken.shell("gone-key-state") == "Disabled\n"
    broken.shell("gone-key-enable")

    assert broken.token_id() == in_service


def test_an_emptied_table_costs_one_token_and_its_ledger_is_put_back(broken: Broken) -> None:
    old = broken.token_id()
    before = broken.mints("--all")
    broken.shell("gone-export")
    dynamodb, table = broken.cloud.client("dynamodb"), broken.names["TABLE"]
    for item in dynamodb.scan(TableName=table)["Items"]:
        key = {name: item[name] for name in ("connection", "record")}
        dynamodb.delete_item(TableName=table, Key=key)

    new = broken.token_id()

    assert new != old
    assert broken.mints() == {new: "in service"}
    broken.shell("gone-import")
    assert broken.mints("--all") == {**before, old: "still leased", new: "in service"}
    assert broken.token_id() == new
    with_backups: Any = {"PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}
    dynamodb.update_continuous_backups(TableName=table, **with_backups)
    broken.shell("gone-restore")
    dynamodb.describe_table(TableName=f"{table}-restored")
    broken.shell("gone-replica")
    assert "sealed" not in (broken.folder / "ledger.json").read_text()


def test_the_version_before_can_be_restored(broken: Broken) -> None:
    def lease_seconds() -> int:
        return int(broken.ask().json()["expires_in"])

    broken.cloud.deploy(LeaseSeconds="600")
    assert lease_seconds() == 600

    versions = [line.split()[0] for line in broken.shell("gone-versions").splitlines()]
    broken.changed["gone-rollback"] = COMMANDS["gone-rollback"].replace("VERSION", versions[-2])
    broken.shell("gone-rollback")

    assert lease_seconds() == 900


def test_another_key_costs_one_token_and_the_old_one_stays_in_the_ledger(broken: Broken) -> None:
    old, old_key = broken.token_id(), broken.names["KEY"]
    broken.cloud.client("kms").schedule_key_deletion(KeyId=old_key, PendingWindowInDays=7)
    template = str(broken.folder / ".aws-sam/build/template.yaml")
    command = COMMANDS["gone-new-key"].replace("template.yaml", template)
    assert "&& make deploy" in command
    broken.changed["gone-new-key"] = command.replace("&& make deploy", "")

    broken.shell("gone-new-key")
    broken.cloud.deploy(LeaseSeconds="900")
    broken.note_names()

    assert broken.names["KEY"] != old_key
    new = broken.token_id()
    assert broken.mints()[old] == "still leased"
    assert broken.mints()[new] == "in service"
    assert wait_until(lambda: "SealBroken" in broken.logs())


def test_the_stack_is_deleted_and_the_ledger_stays(broken: Broken) -> None:
    """The last test: it leaves no stack for others."""
    in_service, cloud = broken.token_id(), broken.cloud
    broken.shell("gone-stop")
    assert broken.ask().status_code == 429
    assert broken.token_requests() == len(broken.mints("--all"))
    broken.shell("gone-export")
    assert in_service in broken.shell("gone-list")

    broken.shell("gone-delete")

    group = cloud.outputs["BrokerLogGroupName"]
    groups = cloud.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    assert [each["logGroupName"] for each in groups] == [group]
    assert broken.shell("gone-key-state") == "Enabled\n"
    assert in_service in broken.mints()  # with the table's name, and no stack
    with pytest.raises(ClientError, match="marked for deletion"):
        cloud.client("secretsmanager").get_secret_value(SecretId=f"{broken.names['PREFIX']}/digishare")

    broken.shell("gone-rest")

    assert broken.shell("gone-key-state") == "PendingDeletion\n"
    assert broken.names["TABLE"] not in cloud.client("dynamodb").list_tables()["TableNames"]
    saved = json.loads((broken.folder / "ledger.json").read_text())["Items"]
    assert in_service in {row.get("token_id", {}).get("S") for row in saved}
