"""`realtime token`: what it signs, and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner

from realtime.cli.main import run
from realtime.cli.token import token

SECRET = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALTIME_TOKEN_HMAC_SECRET", SECRET)


def claims(*arguments: str, **checks: Any) -> dict[str, Any]:
    result = CliRunner().invoke(token, arguments)
    assert result.exit_code == 0, result.output
    found = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], **checks)
    assert isinstance(found, dict)
    return found


def test_it_is_good_for_an_hour_unless_told_otherwise() -> None:
    found = claims("--user", "alice")
    assert found["sub"] == "alice"
    assert found["exp"] - found["iat"] == 3600


def test_its_time_can_be_chosen_also_for_ever() -> None:
    found = claims("-u", "alice", "--ttl", "90s")
    assert found["exp"] - found["iat"] == 90
    assert "exp" not in claims("-u", "alice", "--ttl", "0")


def test_a_channel_makes_it_a_subscription_token() -> None:
    assert claims("--user", "alice", "--channel", "chat:staff")["channel"] == "chat:staff"
    assert "channel" not in claims("--user", "alice")


def test_roles_info_and_other_claims_go_in() -> None:
    arguments = ["-u", "a", "--role", "staff", "--role", "admin", "--info", '{"name": "A"}']
    found = claims(*arguments, "--claim", "team=7", "--claim", "plan=gold")
    assert found["roles"] == ["staff", "admin"]
    assert found["info"] == {"name": "A"}
    assert (found["team"], found["plan"]) == (7, "gold")


def test_audience_and_issuer_are_the_servers() -> None:
    Path("realtime.toml").write_text('token_audience = "chat"\ntoken_issuer = "us"\n')
    found = claims("-u", "a", audience="chat", issuer="us")
    assert (found["aud"], found["iss"]) == ("chat", "us")


def test_the_token_alone_goes_to_standard_output() -> None:
    result = CliRunner().invoke(token, ["--user", "alice", "--ttl", "5m"])
    assert result.stdout.count(".") == 2
    assert result.stdout.count("\n") == 1
    assert result.stderr == "connection token of alice, good for 5m\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ttl", "soon"], "--ttl: 'soon' is not a time from 0s to 8784h, such as 25, 25s, 500ms or 2m"),
        (["--info", "{"], "--info: '{' is not JSON"),
        (["--claim", "plan"], "--claim: 'plan' is not NAME=JSON"),
        (["--claim", "sub=bob"], "--claim: 'sub' has its own option, or is set by this command"),
        (["--token-hmac-secret", "short"], "--token-hmac-secret: the value is not a secret of at least 32 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["token", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"realtime: {sentence}")
    assert captured.err.count("\n") == 1


def test_without_a_secret_it_says_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REALTIME_TOKEN_HMAC_SECRET")
    assert run(["token", "--user", "alice"]) == 2
    assert "there is no secret to sign with: set REALTIME_TOKEN_HMAC_SECRET" in capsys.readouterr().err
