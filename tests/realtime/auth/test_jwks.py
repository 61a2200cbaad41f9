"""Tokens that public keys verify: fixed ones, and those of an identity provider that rotates them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from realtime.auth.jwks import (
    AGAIN_S,
    FRESH_S,
    KEYS_MAX,
    PAUSE_S,
    RECENT_S,
    WAIT_S,
    KeySet,
    load_public_key,
    usable_keys,
)
from realtime.auth.key_cache import KeyCache
from realtime.auth.tokens import Tokens
from realtime.errors import SettingsError, TokenError, TokenExpired, TokenInvalid, TokenUnverified
from tests.support.aio import run_async
from tests.support.one_worker import until

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE: dict[str, Any] = {
    "RS256": RSA,
    "RS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WRITE: dict[str, Any] = {"RS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
URL = "https://id.example.com/keys"
NOW_S = 1_800_000_000.0


def token(algorithm: str, kid: str | None = None, key: Any = None, **claims: Any) -> str:
    head = {"kid": kid} if kid is not None else None
    return jwt.encode({"sub": "ana", **claims}, key or PRIVATE[algorithm], algorithm=algorithm, headers=head)


def jwk(algorithm: str, kid: str, key: Any = None) -> dict[str, Any]:
    public = (key or PRIVATE[algorithm]).public_key()
    return {**json.loads(WRITE[algorithm[:2]].to_jwk(public)), "kid": kid, "use": "sig"}


class Clock:
    """Seconds that pass when the code waits, or when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


class Provider:
    """Publishes keys, and counts the requests."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: Any = list(keys)
        self.asked = 0
        self.clock = Clock()
        self.broken: Exception | None = None
        self.gate: asyncio.Event | None = None  # what an answer waits for

    async def fetch(self, url: str) -> bytes:
        assert url == URL
        self.asked += 1
        keys = self.keys
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        return keys if isinstance(keys, bytes) else json.dumps({"keys": keys}).encode()

    def key_set(self, cache: KeyCache | None = None) -> KeySet:
        return KeySet(url=URL, cache=cache, fetch=self.fetch, clock=self.clock, sleep=self.clock.sleep)

    def tokens(self, cache: KeyCache | None = None) -> Tokens:
        return Tokens("s" * 32, keys=self.key_set(cache))


async def user(tokens: Tokens, text: str) -> str:
    return (await tokens.verify_connection(text, lambda: NOW_S)).user


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_key_in_a_file_verifies_its_kind_of_token_and_no_other(algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(PRIVATE[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    tokens = Tokens(None, keys=KeySet(load_public_key(path)))
    assert tokens.connection(token(algorithm), NOW_S).user == "ana"
    assert tokens.connection(token(algorithm, kid="any"), NOW_S).user == "ana"
    for other in PRIVATE:
        if other[:2] != algorithm[:2] or (other.startswith("ES") and other != algorithm):
            with pytest.raises(TokenInvalid):
                tokens.connection(token(other), NOW_S)
    text = token(algorithm)
    with pytest.raises(TokenInvalid):
        tokens.connection(text[:-6] + ("AAAAAA" if text[-6:] != "AAAAAA" else "BBBBBB"), NOW_S)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_without_a_key_is_no_setting(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"key\.pem"):
        load_public_key(path)


def test_a_public_key_is_no_hmac_secret(tmp_path: Path) -> None:
    pem = PRIVATE["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "key.pem"
    path.write_bytes(pem)
    head, claims = token("RS256").split(".")[:2]
    import base64
    import hashlib
    import hmac

    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    digest = hmac.new(pem, f"{head}.{claims}".encode(), hashlib.sha256).digest()
    forged = f"{head}.{claims}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
    for tokens in (Tokens(None, keys=KeySet(load_public_key(path))), Tokens("s" * 32, keys=KeySet(RSA.public_key()))):
        with pytest.raises(TokenInvalid):
            tokens.connection(forged, NOW_S)


@run_async
async def test_a_providers_keys_are_fetched_once_for_all() -> None:
    provider = Provider(*[jwk(name, name) for name in PRIVATE])
    tokens = provider.tokens()
    asked = [user(tokens, token(name, name)) for name in PRIVATE for _ in range(5)]
    assert await asyncio.gather(*asked) == ["ana"] * 30
    assert provider.asked == 1


# Keys that are not known


@run_async
async def test_a_rotated_key_is_found_at_once() -> None:
    provider, fresh = Provider(jwk("ES256", "old")), new_key()
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "old")) == "ana"
    provider.keys = [jwk("ES256", "new", fresh)]
    assert await user(tokens, token("ES256", "old")) == "ana", "no token needed a request"
    assert await user(tokens, token("ES256", "new", fresh)) == "ana"
    assert provider.asked == 2
    for withdrawn in (token("ES256", "old"), token("ES256", "new")):
        with pytest.raises(TokenInvalid):
            await user(tokens, withdrawn)


@run_async
async def test_unknown_keys_cause_few_requests_and_refuse_no_honest_client() -> None:
    provider, fresh = Provider(jwk("ES256", "old")), new_key()
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "old")) == "ana"
    answers: list[type[Exception]] = []
    for number in range(200):
        with pytest.raises(TokenError) as refused:
            await user(tokens, token("ES256", f"invented {number}"))
        answers.append(refused.type)
        provider.clock.now += 0.5
    assert set(answers) == {TokenInvalid, TokenUnverified}
    assert provider.asked < 20, "of the 200 seconds and more"
    provider.keys.append(jwk("ES256", "new", fresh))
    while True:
        try:
            assert await user(tokens, token("ES256", "new", fresh)) == "ana"
            break
        except TokenUnverified:  # and comes again, as SDKs do
            with pytest.raises(TokenUnverified):
                await user(tokens, token("ES256", "invented again"))
            provider.clock.now += 0.5
    assert provider.clock.now < 200 + 2 * AGAIN_S


@run_async
async def test_one_unknown_key_costs_the_next_client_no_more_than_a_short_wait() -> None:
    provider, fresh = Provider(jwk("ES256", "old")), new_key()
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "old")) == "ana"
    with pytest.raises(TokenInvalid):
        await user(tokens, token("ES256", "invented"))
    provider.keys = [jwk("ES256", "new", fresh)]
    assert await user(tokens, token("ES256", "new", fresh)) == "ana"
    assert provider.asked == 3
    assert provider.clock.now < WAIT_S + PAUSE_S


@run_async
async def test_a_fetch_that_began_before_a_token_came_does_not_refuse_it() -> None:
    provider, fresh = Provider(jwk("ES256", "old")), new_key()
    provider.gate = asyncio.Event()
    tokens = provider.tokens()
    first = asyncio.create_task(user(tokens, token("ES256", "old")))
    await until(lambda: provider.asked == 1)
    provider.clock.now += 0.1
    provider.keys = [jwk("ES256", "old"), jwk("ES256", "new", fresh)]  # the answer on its way has the old ones
    second = asyncio.create_task(user(tokens, token("ES256", "new", fresh)))
    await asyncio.sleep(0)
    provider.gate.set()
    assert await asyncio.gather(first, second) == ["ana", "ana"]
    assert provider.asked == 2


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({}, TokenInvalid),
        ({"iat": NOW_S}, TokenUnverified),
        ({"iat": NOW_S - 299}, TokenUnverified),
        ({"iat": NOW_S + 20}, TokenUnverified),
        ({"iat": NOW_S - 300}, TokenExpired),
        ({"iat": NOW_S, "exp": NOW_S - 1}, TokenExpired),
        ({"iat": "now"}, TokenInvalid),
    ],
    ids=repr,
)
@run_async
async def test_a_key_that_is_not_published_may_be_soon_or_was_once(
    claims: dict[str, Any], what: type[TokenError]
) -> None:
    provider = Provider(jwk("ES256", "a"))
    head = {"kid": "another"}
    text = jwt.encode({"sub": "ana", **claims}, PRIVATE["ES256"], algorithm="ES256", headers=head)
    with pytest.raises(what):
        await user(provider.tokens(), text)


@run_async
async def test_a_signature_by_another_key_of_the_same_name_is_refused_unless_the_set_is_old() -> None:
    provider, fresh = Provider(jwk("ES256", "a")), new_key()
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "a")) == "ana"
    with pytest.raises(TokenInvalid):
        await user(tokens, token("ES256", "a", fresh))
    assert provider.asked == 1, "a forger does not make it ask"
    provider.clock.now += RECENT_S
    provider.keys = [jwk("ES256", "a", fresh)]  # a provider that makes its keys anew, and calls them all the same
    assert await user(tokens, token("ES256", "a", fresh)) == "ana"


# A key server that is away


@pytest.mark.parametrize(
    "broken",
    [OSError("no route"), ValueError("no JSON"), TimeoutError()],
    ids=repr,
)
@run_async
async def test_a_failing_key_server_refuses_no_client_for_good(broken: Exception) -> None:
    provider, fresh = Provider(jwk("EdDSA", "a")), new_key()
    tokens = provider.tokens()
    assert await user(tokens, token("EdDSA", "a")) == "ana"
    provider.clock.now += FRESH_S + 1
    provider.broken = broken
    for _ in range(20):
        with pytest.raises(TokenUnverified):
            await user(tokens, token("ES256", "new", fresh))
        assert await user(tokens, token("EdDSA", "a")) == "ana"
        provider.clock.now += 0.5
    assert 2 < provider.asked < 8
    provider.broken = None
    provider.keys.append(jwk("ES256", "new", fresh))
    provider.clock.now += AGAIN_S
    assert await user(tokens, token("ES256", "new", fresh)) == "ana"


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", b"[]", b"{}", b'{"keys":5}', b'{"keys":[5,null,{}]}', b'{"keys":' + b"[" * 100_000, b"\xff\xfe"],
    ids=lambda text: repr(text[:12]),
)
@run_async
async def test_garbage_is_no_key_set_and_takes_no_known_key_along(answer: bytes) -> None:
    provider = Provider(jwk("ES256", "a"))
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "a")) == "ana"
    provider.keys = answer
    with pytest.raises(TokenUnverified, match="there are no keys from"):
        await user(tokens, token("ES256", "b", new_key()))
    assert await user(tokens, token("ES256", "a")) == "ana"


@run_async
async def test_a_fetch_of_an_old_set_lets_no_client_wait() -> None:
    provider = Provider(jwk("EdDSA", "a"))
    tokens = provider.tokens()
    assert await user(tokens, token("EdDSA", "a")) == "ana"
    provider.clock.now += FRESH_S + 1
    provider.gate = asyncio.Event()
    assert await user(tokens, token("EdDSA", "a")) == "ana"
    assert await user(tokens, jwt.encode({"sub": "bob"}, "s" * 32)) == "bob"
    await until(lambda: provider.asked == 2)
    await tokens.close()
    assert await user(tokens, token("EdDSA", "a")) == "ana", "nor does what was given up"


# What a set may hold


@run_async
async def test_several_keys_without_an_id_are_each_tried() -> None:
    keys = [new_key() for _ in range(3)]
    without = [{name: each for name, each in jwk("ES256", "", key).items() if name != "kid"} for key in keys]
    provider = Provider(*without, jwk("RS256", "named"))
    tokens = provider.tokens()
    for key in keys:
        for kid in (None, "of its own"):
            assert await user(tokens, token("ES256", kid, key)) == "ana"
    assert await user(tokens, token("RS256")) == "ana", "a token without an id may be by a key that has one"
    assert provider.asked == 1
    fresh = new_key()
    provider.keys = [{name: each for name, each in jwk("ES256", "", fresh).items() if name != "kid"}]
    assert await user(tokens, token("ES256", None, fresh)) == "ana", "such a set rotates as well"


@run_async
async def test_keys_of_one_id_are_told_apart_by_their_kind() -> None:
    provider = Provider(jwk("RS256", "one"), jwk("ES256", "one"), jwk("EdDSA", "one"))
    tokens = provider.tokens()
    for algorithm in ("RS256", "ES256", "EdDSA", "RS512"):
        assert await user(tokens, token(algorithm, "one")) == "ana"


@run_async
async def test_a_key_is_for_the_algorithm_that_it_names() -> None:
    provider = Provider(
        {**jwk("RS256", "a"), "alg": "RS256"}, {**jwk("RS256", "b"), "alg": "PS256"},
        {**jwk("EdDSA", "c"), "alg": "Ed25519"}, {**jwk("ES256", "d"), "alg": "ES256"},
    )  # fmt: skip
    tokens = provider.tokens()
    for algorithm, kid in (("RS256", "a"), ("EdDSA", "c"), ("ES256", "d")):
        assert await user(tokens, token(algorithm, kid)) == "ana"
    for algorithm, kid in (("RS512", "a"), ("RS256", "b")):
        with pytest.raises(TokenInvalid):
            await user(tokens, token(algorithm, kid))


USELESS: list[Any] = [
    {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "shared"},
    {"kty": "??"}, {"kty": 5}, {"kty": ["RSA"]}, {}, [], None, "RSA", 1.5,
    {**jwk("ES256", "enc"), "use": "enc"}, {**jwk("ES256", "odd"), "use": 5},
    {**jwk("ES256", "signs"), "key_ops": ["sign"]}, {**jwk("ES256", "odder"), "key_ops": "verify"},
    {**jwk("ES256", "list"), "kid": ["list"]}, {**jwk("RS256", "oaep"), "alg": "RSA-OAEP"},
    {**jwk("ES256", "curve"), "crv": "P-999"}, {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
    {"kty": "OKP", "crv": "Ed448", "x": "AAAA"}, {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
    {**jwk("ES256", "point"), "x": "AAAA"}, {"kty": "RSA", "kid": "half"}, {"kty": "RSA", "n": "?", "e": "AQAB"},
    {**jwk("ES256", "private"), "d": "AAAA"},
]  # fmt: skip


@run_async
async def test_keys_of_no_use_are_left_out_and_spoil_no_other() -> None:
    provider = Provider(*USELESS, {**jwk("RS256", "good"), "key_ops": ["verify"], "x5c": ["?"]}, *USELESS)
    tokens = provider.tokens()
    assert await user(tokens, token("RS256", "good")) == "ana"
    shared = jwt.encode({"sub": "x"}, b"secret-secret-secret-secret-secr", headers={"kid": "shared"})
    for text in (token("ES256", "enc"), token("ES256", "private"), token("ES256", "signs"), shared):
        with pytest.raises(TokenError):
            await user(tokens, text)


NAMES = ["kty", "kid", "alg", "use", "key_ops", "crv", "n", "e", "x", "y", "d"]
VALUES = [None, 5, 1e300, True, "", "RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "?", "é", [], ["verify"], {}, [[]]]
ENTRIES = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES)) | st.sampled_from(VALUES)


@given(st.lists(ENTRIES, max_size=10))
def test_no_entry_of_a_set_keeps_another_out(entries: list[Any]) -> None:
    good = jwk("EdDSA", "good")
    found = usable_keys(json.dumps({"keys": [*entries[:8], good, *entries[8:]]}).encode())
    assert {name: good[name] for name in ("kty", "kid", "crv", "x")} in found


def test_a_set_without_end_is_cut() -> None:
    many = json.dumps({"keys": [jwk("EdDSA", str(number)) for number in range(500)]}).encode()
    assert len(usable_keys(many)) == KEYS_MAX


@run_async
async def test_nothing_is_fetched_without_a_token_of_that_kind() -> None:
    provider = Provider()
    tokens = provider.tokens()
    for text in ("", "x", "a.b.c", "e" * 9000):
        with pytest.raises(TokenInvalid):
            await user(tokens, text)
    assert await user(tokens, jwt.encode({"sub": "ana"}, "s" * 32)) == "ana"
    assert provider.asked == 0


# What a worker leaves for its successor


@run_async
async def test_a_successor_knows_the_keys_without_a_request(tmp_path: Path) -> None:
    provider, path = Provider(*[jwk(name, name) for name in PRIVATE]), tmp_path / "keys"
    assert await user(provider.tokens(KeyCache(path)), token("ES256", "ES256")) == "ana"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keys"], "nothing half written is left"
    provider.broken = OSError("away")
    successor = provider.tokens(KeyCache(path))
    for name in PRIVATE:
        assert await user(successor, token(name, name)) == "ana"
    assert provider.asked == 1


@run_async
async def test_keys_that_a_predecessor_left_are_as_old_as_they_are(tmp_path: Path) -> None:
    provider, path = Provider(jwk("ES256", "a")), tmp_path / "keys"
    KeyCache(path, now=lambda: 1000.0).save(URL, usable_keys(json.dumps({"keys": provider.keys}).encode()))
    for age_s, asked in ((FRESH_S - 1, 0), (FRESH_S + 1, 1)):
        tokens = provider.tokens(KeyCache(path, now=lambda age_s=age_s: 1000.0 + age_s))
        assert await user(tokens, token("ES256", "a")) == "ana"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert provider.asked == asked
        await tokens.close()


@run_async
async def test_a_key_that_one_worker_fetched_is_requested_by_no_other(tmp_path: Path) -> None:
    provider, fresh, path = Provider(jwk("ES256", "a")), new_key(), tmp_path / "keys"
    one, other = (provider.tokens(KeyCache(path)) for _ in range(2))
    assert await user(one, token("ES256", "a")) == "ana"
    provider.clock.now += 20
    provider.keys.append(jwk("ES256", "b", fresh))
    provider.broken = None
    assert await user(one, token("ES256", "b", fresh)) == "ana"
    provider.broken = OSError("away")
    assert await user(other, token("ES256", "a")) == "ana"
    assert await user(other, token("ES256", "b", fresh)) == "ana"
    assert provider.asked == 2
    with pytest.raises(TokenUnverified):
        await user(other, token("ES256", "c"))


def test_a_file_that_is_not_what_we_wrote_is_not_read(tmp_path: Path) -> None:
    keys = usable_keys(json.dumps({"keys": [jwk("ES256", "a")]}).encode())
    path = tmp_path / "keys"
    cache = KeyCache(path)
    assert cache.load(URL) is None
    cache.save(URL, keys)
    assert cache.load("https://another.example.com/") is None, "the keys of another server are not believed"
    loaded = KeyCache(path).load(URL)
    assert loaded is not None
    assert loaded[1] == keys
    for text in (b"", b"{}", b'{"url":5}', b"[" * 5000):
        path.write_bytes(text)
        assert KeyCache(path).load(URL) is None
    cache.save(URL, keys)
    path.chmod(0o622)
    assert KeyCache(path).load(URL) is None, "others could have written it"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert KeyCache(path).load(URL) is None
    KeyCache(tmp_path / "nowhere" / "keys").save(URL, keys)  # is logged
