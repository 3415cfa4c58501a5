"""Settings are complete and valid, or the error names the variables that are not."""

from __future__ import annotations

import pytest

from functions.broker.settings import Settings, SettingsError

ENVIRONMENT = {
    "TOKEN_TABLE": "tokens",
    "TOKEN_KEY_ARN": "arn:aws:kms:eu-west-3:123456789012:key/1",
    "SECRET_PREFIX": "token-broker/connections",
    "UPSTREAM_HOSTS": "api.digishare.ma",
    "DEFAULT_TOKEN_URL": "https://api.digishare.ma/v1/oauth/token",
    "LEASE_SECONDS": "900",
    "CAMPAIGNS_ROLE": "campaigns-role",
}


def settings_with(**changes: str) -> Settings:
    return Settings.from_environment(ENVIRONMENT | changes)


def test_everything_is_read_from_its_variable() -> None:
    assert settings_with(UPSTREAM_CA_FILE="/opt/ca.pem") == Settings(
        token_table="tokens",
        token_key_arn="arn:aws:kms:eu-west-3:123456789012:key/1",
        secret_prefix="token-broker/connections",
        upstream_hosts=frozenset({"api.digishare.ma"}),
        upstream_ca_file="/opt/ca.pem",
        default_token_url="https://api.digishare.ma/v1/oauth/token",
        lease_seconds=900,
        campaigns_role="campaigns-role",
    )


def test_the_brokers_account_is_that_of_the_key() -> None:
    assert settings_with().own_account == "123456789012"


@pytest.mark.parametrize(
    "text",
    ["key/1", "alias/tokens", "arn:aws:kms:eu-west-3:123456789012:alias/tokens", "arn:aws:kms:eu-west-3::key/1",
     "arn:aws:kms:eu-west-3:12345678901\uff12:key/1", "arn:aws:sqs:eu-west-3:123456789012:key/1",
     "arn:aws:kms:eu-west-3:123456789012:key/1\n"],
)  # fmt: skip
def test_what_is_no_keys_arn_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^TOKEN_KEY_ARN must be the ARN of a KMS key"):
        settings_with(TOKEN_KEY_ARN=text)


@pytest.mark.parametrize("ca_file", [{}, {"UPSTREAM_CA_FILE": ""}])
def test_without_a_ca_file_the_public_roots_count(ca_file: dict[str, str]) -> None:
    assert settings_with(**ca_file).upstream_ca_file is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("900", 900), ("900.0", 900), ("9e2", 900), ("9E+2", 900), ("1e3", 1000), ("+60", 60), ("1", 1),
        ("90.00e1", 900), ("1e9", 10**9)],
)  # fmt: skip
def test_a_number_may_have_every_form_that_cloudformation_passes_on(text: str, seconds: int) -> None:
    found = settings_with(LEASE_SECONDS=text).lease_seconds

    assert found == seconds
    assert type(found) is int


@pytest.mark.parametrize(
    "text",
    ["0", "-1", "0.5", "900.5", "nan", "inf", "\uff11\uff12", "1e400", "1e99", "2e9", "9e-1", "long", " 900",
        "900\n", "1_000", "0x10", "9" * 400],
)  # fmt: skip
def test_what_is_no_whole_number_above_0_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^LEASE_SECONDS must be a whole number above 0"):
        settings_with(LEASE_SECONDS=text)


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_what_is_missing_or_empty_is_named(name: str) -> None:
    without = {known: text for known, text in ENVIRONMENT.items() if known != name}

    for environment in (without, without | {name: ""}):
        with pytest.raises(SettingsError, match=f"^{name} is missing$"):
            Settings.from_environment(environment)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment({"LEASE_SECONDS": "long"})

    named = {problem.split()[0] for problem in str(raised.value).split("; ")}
    assert named == set(ENVIRONMENT)


def test_hosts_are_a_list_in_any_case_and_spacing() -> None:
    hosts = settings_with(UPSTREAM_HOSTS=" API.Digishare.ma, ,localhost:8443 ").upstream_hosts

    assert hosts == {"api.digishare.ma", "localhost:8443"}


def test_a_slash_at_the_end_of_the_prefix_does_not_count() -> None:
    assert settings_with(SECRET_PREFIX="token-broker/").secret_prefix == "token-broker"
