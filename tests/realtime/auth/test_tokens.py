"""
Tokens: which ones verify, what their claims mean, and that every way to forge one is refused.

Signatures are compared with tokens that others signed: RFC 7515, appendix A.1, and the vectors of the Centrifuge client
protocol, section 17. Times are arguments, so nothing here waits for a clock.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from realtime.auth.tokens import ConnectionClaims, SubscriptionClaims, Tokens, sign
from realtime.errors import TokenError, TokenExpired, TokenInvalid, TokenUnverified

SECRET = "a secret of more than sixty-four bytes, so that every HMAC here has as much of it as it wants"
NOW_S = 1_700_000_000.0
tokens = Tokens(SECRET)

RFC_KEY = base64.urlsafe_b64decode(
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
)
RFC_TOKEN = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)
RFC_EXPIRES_S = 1_300_819_380.0
HEAD = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
FOR_42 = f"{HEAD}.eyJzdWIiOiI0MiJ9.79CVgMIG_JB921dVUeJDWNJubJojFodH3-XtC_1C408"
FOR_42_IN_NEWS = f"{HEAD}.eyJzdWIiOiI0MiIsImNoYW5uZWwiOiJuZXdzIn0.oxUUBcXxLORo9RiMfWQ4yGrbeHoHRfPk-5rM-TARuEY"


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(head: dict[str, Any], claims: Any, key: bytes = b"", digest: str = "sha256") -> str:
    """Make a token by hand, as an attacker does without a library; without a key its signature is empty."""
    text = f"{b64url(json.dumps(head).encode())}.{b64url(json.dumps(claims).encode())}"
    return f"{text}.{b64url(hmac.digest(key, text.encode(), digest)) if key else ''}"


# Tokens that others signed


def test_the_token_of_rfc_7515_verifies_until_it_expires() -> None:
    rfc = Tokens(RFC_KEY, issuer="joe")  # type: ignore[arg-type]  # a key that is no text
    claims = rfc.connection(RFC_TOKEN, RFC_EXPIRES_S - 1)
    assert claims.raw == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert claims.expire_at_s == RFC_EXPIRES_S
    assert claims.user == "", "without `sub` the user is anonymous"
    with pytest.raises(TokenExpired):
        rfc.connection(RFC_TOKEN, RFC_EXPIRES_S)


@pytest.mark.filterwarnings("ignore:The HMAC key is")
def test_the_tokens_of_the_protocol_verify() -> None:
    short = Tokens("secret")
    assert short.connection(FOR_42, NOW_S) == ConnectionClaims(user="42", raw={"sub": "42"})
    assert short.subscription(FOR_42_IN_NEWS, NOW_S) == SubscriptionClaims(user="42", channel="news")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_each_hmac_verifies_and_each_tampered_byte_does_not(algorithm: str) -> None:
    token = jwt.encode({"sub": "alice"}, SECRET, algorithm=algorithm)
    assert tokens.connection(token, NOW_S).user == "alice"
    head, payload, signature = token.split(".")
    for forged in (
        ".".join([head, b64url(b'{"sub":"root"}'), signature]),
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}.{payload}.",
    ):
        with pytest.raises(TokenInvalid):
            tokens.connection(forged, NOW_S)


def test_what_we_sign_verifies() -> None:
    assert tokens.connection(sign({"sub": "alice"}, SECRET), NOW_S).user == "alice"


@pytest.mark.parametrize("claims", [{"sub": "\ud83d"}, {"sub": "a", "info": {"\ud83d": 1}}, {"x": ["\udc00"]}])
def test_a_token_with_half_a_character_is_invalid(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid, match="in the middle of a character"):
        tokens.connection(sign(claims, SECRET), NOW_S)


# Forgeries


def public_key() -> bytes:
    """Return a public key as a PEM text: what an attacker knows where tokens are signed by RS256."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_public_key_is_never_an_hmac_secret() -> None:
    pem = public_key()
    forged = forge({"alg": "HS256", "typ": "JWT"}, {"sub": "root"}, pem)
    with pytest.raises(TokenInvalid):
        Tokens(pem.decode()).connection(forged, NOW_S)


def test_a_token_of_a_public_key_algorithm_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(TokenInvalid):
        tokens.connection(jwt.encode({"sub": "root"}, key, algorithm="RS256"), NOW_S)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "hs256", "HS1", "RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("key", [b"", SECRET.encode()], ids=["unsigned", "signed"])
def test_an_algorithm_that_we_did_not_choose_is_refused(algorithm: str, key: bytes) -> None:
    with pytest.raises(TokenInvalid):
        tokens.connection(forge({"alg": algorithm, "typ": "JWT"}, {"sub": "root"}, key), NOW_S)


@pytest.mark.parametrize(
    "head",
    [{}, {"typ": "JWT"}, {"alg": None}, {"alg": 1}, {"alg": ["HS256"]}, {"alg": "HS256", "crit": ["x"], "x": 1}, []],
    ids=repr,
)
def test_a_head_that_says_nothing_we_know_is_refused(head: Any) -> None:
    with pytest.raises(TokenInvalid):
        tokens.connection(forge(head, {"sub": "root"}, SECRET.encode()), NOW_S)


@pytest.mark.parametrize(
    "secret", ["another secret of more than thirty-two bytes", SECRET + " ", SECRET[:-1], SECRET.upper()]
)
def test_another_secret_is_refused(secret: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens.connection(sign({"sub": "alice"}, secret), NOW_S)


def test_a_key_that_the_token_itself_brings_is_not_used() -> None:
    key = b"the attacker's own secret, long enough"
    head = {"alg": "HS256", "jwk": {"kty": "oct", "k": b64url(key)}, "kid": "/dev/null", "jku": "http://127.0.0.1/"}
    with pytest.raises(TokenInvalid):
        tokens.connection(forge(head, {"sub": "root"}, key), NOW_S)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "é.é.é", " ", "\0", FOR_42 + ".", "." + FOR_42, "x" * 100_000, f"{HEAD}..", "🐚"],
    ids=lambda token: repr(token[:12]),
)
def test_what_is_no_token_is_refused(token: str) -> None:
    for verify in (tokens.connection, tokens.subscription):
        with pytest.raises(TokenInvalid):
            verify(token, NOW_S)


@pytest.mark.parametrize("claims", [None, 1, "alice", ["alice"], True], ids=repr)
def test_claims_that_are_no_object_are_refused(claims: Any) -> None:
    with pytest.raises(TokenInvalid):
        tokens.connection(forge({"alg": "HS256"}, claims, SECRET.encode()), NOW_S)


def test_without_a_secret_nothing_verifies() -> None:
    for token in (FOR_42, forge({"alg": "none"}, {"sub": "root"}), forge({"alg": "HS256"}, {"sub": "root"}, b"x")):
        with pytest.raises(TokenInvalid, match="no secret"):
            Tokens(None).connection(token, NOW_S)


def test_a_head_nested_without_end_is_refused_like_any_other() -> None:
    head = b64url(b'{"alg":' + b"[" * 20_000)
    with pytest.raises(TokenInvalid):
        tokens.connection(f"{head}.{b64url(b'{}')}.{b64url(b'x')}", NOW_S)


# Times


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"exp": NOW_S + 1}, None),
        ({"exp": NOW_S + 0.5}, None),
        ({"exp": NOW_S}, TokenExpired),
        ({"exp": NOW_S - 1}, TokenExpired),
        ({"exp": 0}, TokenExpired),
        ({"exp": -1}, TokenExpired),
        ({"nbf": NOW_S}, None),
        ({"nbf": NOW_S + 1}, TokenUnverified),
        ({"nbf": NOW_S + 300}, TokenUnverified),
        ({"nbf": NOW_S + 301}, TokenInvalid),
        ({"nbf": NOW_S + 1, "exp": NOW_S + 1}, TokenInvalid),
        ({"nbf": NOW_S + 1, "exp": NOW_S - 1}, TokenExpired),
        ({"iat": NOW_S + 3600}, None),
        ({"exp": "tomorrow"}, TokenInvalid),
        ({"exp": str(NOW_S + 60)}, TokenInvalid),
        ({"exp": True}, TokenInvalid),
        ({"exp": [NOW_S + 60]}, TokenInvalid),
        ({"nbf": "yesterday"}, TokenInvalid),
        ({"nbf": {}}, TokenInvalid),
        ({"expire_at": "never"}, TokenInvalid),
        ({"expire_at": False}, TokenInvalid),
    ],
    ids=repr,
)
def test_a_token_is_good_from_nbf_until_just_before_exp(claims: dict[str, Any], what: type[TokenError] | None) -> None:
    for verify, more in ((tokens.connection, {}), (tokens.subscription, {"channel": "news"})):
        token = forge({"alg": "HS256"}, {"sub": "alice", **more, **claims}, SECRET.encode())
        if what is None:
            verify(token, NOW_S)
        else:
            with pytest.raises(what):
                verify(token, NOW_S)


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"nbf": NOW_S + 10}, None),
        ({"nbf": NOW_S + 10.5}, TokenUnverified),
        ({"exp": NOW_S - 9.5}, None),
        ({"exp": NOW_S - 10}, TokenExpired),
        ({"iat": NOW_S + 86400}, None),
        ({"iat": "when"}, None),
    ],
    ids=repr,
)
def test_clocks_may_differ_by_the_leeway_in_either_direction(
    claims: dict[str, Any], what: type[TokenError] | None
) -> None:
    lenient = Tokens(SECRET, leeway_s=10)
    for verify, more in ((lenient.connection, {}), (lenient.subscription, {"channel": "news"})):
        token = sign({"sub": "alice", **more, **claims}, SECRET)
        if what is None:
            assert verify(token, NOW_S).user == "alice"
        else:
            with pytest.raises(what):
                verify(token, NOW_S)


def test_leeway_moves_no_end_of_a_connection() -> None:
    token = sign({"exp": NOW_S - 5}, SECRET)
    assert Tokens(SECRET, leeway_s=10).connection(token, NOW_S).expire_at_s == NOW_S - 5


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": 42}, 'a number, and has to be a text such as "42"'),
        ({"sub": 4.5}, "a number"),
        ({"sub": True}, "true or false"),
        ({"sub": ["42"]}, "no text"),
        ({"exp": "1800000000"}, "`exp` is no number of seconds"),
    ],
)
def test_a_claim_of_another_type_is_named_for_the_log(claims: dict[str, Any], why: str) -> None:
    """Centrifugo and PyJWT refuse a `sub` that is a number as well: RFC 7519 has a text there."""
    with pytest.raises(TokenInvalid, match=re.escape(why)):
        tokens.connection(sign_anything(claims), NOW_S)


def sign_anything(claims: dict[str, Any]) -> str:
    return forge({"alg": "HS256"}, claims, SECRET.encode())


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400], ids=lambda text: text[:9]
)
@pytest.mark.parametrize("claim", ["exp", "nbf", "expire_at"])
def test_a_time_that_is_no_number_never_makes_a_token_that_lives_for_ever(claim: str, number: str) -> None:
    text = b64url(b'{"alg":"HS256"}') + "." + b64url(f'{{"sub":"alice","{claim}":{number}}}'.encode())
    token = f"{text}.{b64url(hmac.digest(SECRET.encode(), text.encode(), 'sha256'))}"
    with pytest.raises(TokenError):
        tokens.connection(token, NOW_S)


@pytest.mark.parametrize(
    ("claims", "expire_at_s"),
    [
        ({}, None),
        ({"exp": NOW_S + 60}, NOW_S + 60),
        ({"exp": NOW_S + 60, "expire_at": NOW_S + 600}, NOW_S + 600),
        ({"exp": NOW_S + 60, "expire_at": 0}, None),
        ({"expire_at": NOW_S + 600}, NOW_S + 600),
    ],
    ids=repr,
)
def test_what_a_token_began_ends_at_expire_at_else_at_exp(claims: dict[str, Any], expire_at_s: float | None) -> None:
    assert tokens.connection(sign(claims, SECRET), NOW_S).expire_at_s == expire_at_s
    assert tokens.subscription(sign({"channel": "news", **claims}, SECRET), NOW_S).expire_at_s == expire_at_s


# Audience and issuer


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({"aud": "us", "iss": "shop"}, True),
        ({"aud": ["them", "us"], "iss": "shop"}, True),
        ({"aud": "them", "iss": "shop"}, False),
        ({"aud": ["them"], "iss": "shop"}, False),
        ({"aud": [], "iss": "shop"}, False),
        ({"aud": {"us": 1}, "iss": "shop"}, False),
        ({"aud": "us and more", "iss": "shop"}, False),
        ({"iss": "shop"}, False),
        ({"aud": "us"}, False),
        ({"aud": "us", "iss": "SHOP"}, False),
        ({"aud": "us", "iss": ["shop"]}, False),
    ],
    ids=repr,
)
def test_aud_and_iss_count_where_they_are_configured(claims: dict[str, Any], is_good: bool) -> None:
    choosy = Tokens(SECRET, audience="us", issuer="shop")
    token = forge({"alg": "HS256"}, {"channel": "news", **claims}, SECRET.encode())
    if is_good:
        assert choosy.subscription(token, NOW_S).channel == "news"
    else:
        with pytest.raises(TokenInvalid):
            choosy.subscription(token, NOW_S)
    assert tokens.subscription(token, NOW_S).channel == "news", "and are not looked at where they are not"


# What they say


def test_a_connection_token_has_user_rooms_and_info() -> None:
    said = {
        "sub": "42",
        "exp": NOW_S + 60,
        "info": {"name": "Ana", "n": 2**63},
        "channels": ["news", "#42", "news"],
        "subs": {"#42": {"info": 1}, "sport": {}},
        "meta": {"plan": "gold"},
        "roles": ["editor"],
    }
    claims = tokens.connection(sign(said, SECRET), NOW_S)
    assert claims.user == "42"
    assert json.loads(claims.info or b"") == {"name": "Ana", "n": 2**63}
    assert claims.channels == ("news", "#42", "sport"), "each once, in order"
    assert claims.meta == {"plan": "gold"}
    assert claims.raw == said


def test_a_subscription_token_has_user_and_room() -> None:
    said = {"sub": "42", "channel": "$news", "client": "c1", "info": {"a": 1}, "data": [None, "ü"], "expire_at": 0}
    claims = tokens.subscription(sign(said, SECRET), NOW_S)
    assert (claims.user, claims.channel, claims.client, claims.expire_at_s) == ("42", "$news", "c1", None)
    assert json.loads(claims.info or b"") == {"a": 1}
    assert json.loads(claims.data or b"") == [None, "ü"]


def test_base_64_carries_a_json_text_as_it_is() -> None:
    text = b'{"n": 1.0,\t"a":"\\u00e9"}'
    said = {"channel": "news", "b64info": base64.b64encode(text).decode(), "b64data": base64.b64encode(b"0").decode()}
    claims = tokens.subscription(sign(said, SECRET), NOW_S)
    assert (claims.info, claims.data) == (text, b"0")


@pytest.mark.parametrize("value", [{}, [], "", 0, False], ids=repr)
def test_info_that_is_empty_is_info_all_the_same(value: object) -> None:
    assert tokens.connection(sign({"info": value}, SECRET), NOW_S).info == json.dumps(value).encode()


def test_a_subscription_token_cannot_connect_and_a_connection_token_cannot_subscribe() -> None:
    for channel in ("news", "", None, 0):
        with pytest.raises(TokenInvalid, match="cannot connect"):
            tokens.connection(sign({"sub": "42", "channel": channel}, SECRET), NOW_S)
    with pytest.raises(TokenInvalid, match="no channel"):
        tokens.subscription(sign({"sub": "42"}, SECRET), NOW_S)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 42},
        {"sub": None},
        {"sub": ["42"]},
        {"channels": "news"},
        {"channels": [1]},
        {"channels": {"news": 1}},
        {"subs": ["news"]},
        {"subs": "news"},
        {"b64info": "%%%"},
        {"b64info": 1},
        {"b64info": b64url(b"{'no': 'json'}")},
        {"b64info": base64.b64encode(b"\xff").decode()},
    ],
    ids=repr,
)
def test_a_connection_token_of_a_wrong_shape_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        tokens.connection(forge({"alg": "HS256"}, claims, SECRET.encode()), NOW_S)


@pytest.mark.parametrize(
    "claims",
    [{"channel": ""}, {"channel": 1}, {"channel": ["news"]}, {"client": 1}, {"sub": 42}, {"b64data": "%"}],
    ids=repr,
)
def test_a_subscription_token_of_a_wrong_shape_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        tokens.subscription(forge({"alg": "HS256"}, {"channel": "news", **claims}, SECRET.encode()), NOW_S)


def test_the_error_of_a_token_never_contains_the_secret() -> None:
    for token in ("", "a.b.c", sign({}, SECRET + "x"), sign({"exp": 1}, SECRET), sign({"channel": ""}, SECRET)):
        with pytest.raises(TokenError) as refusal:
            tokens.subscription(token, NOW_S)
        assert SECRET not in str(refusal.value)


# While one secret replaces another


def test_tokens_of_both_secrets_are_accepted_and_of_no_third() -> None:
    new = "the secret that replaces it, of more than sixty-four bytes, for each of the three algorithms"
    both = Tokens(new, hmac_secret_previous=SECRET)
    for algorithm in ("HS256", "HS384", "HS512"):
        for secret in (SECRET, new):
            assert both.connection(jwt.encode({"sub": "42"}, secret, algorithm=algorithm), NOW_S).user == "42"
        with pytest.raises(TokenInvalid, match="Signature verification failed"):
            both.connection(jwt.encode({"sub": "42"}, SECRET + "x", algorithm=algorithm), NOW_S)
    with pytest.raises(TokenExpired):
        both.connection(sign({"sub": "42", "exp": NOW_S - 60}, SECRET), NOW_S)
    with pytest.raises(TokenInvalid, match="Signature verification failed"):
        Tokens(new).connection(sign({"sub": "42"}, SECRET), NOW_S)
