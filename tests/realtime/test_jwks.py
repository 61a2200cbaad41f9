"""Tokens that public keys verify: fixed ones, and those of an identity provider that rotates them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from realtime.auth import Tokens
from realtime.errors import SettingsError, TokenInvalid
from realtime.jwks import AGAIN_S, FRESH_S, KeySet, load_public_key
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


class Provider:
    """Publishes keys, and counts who asks."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.now = 0.0
        self.broken: Exception | None = None

    def fetch(self, url: str) -> bytes:
        assert url == URL
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return json.dumps({"keys": self.keys}).encode()

    def tokens(self) -> Tokens:
        return Tokens("s" * 32, keys=KeySet(url=URL, fetch=self.fetch, clock=lambda: self.now))


async def user(tokens: Tokens, text: str) -> str:
    await tokens.prepare(text)
    return tokens.connection(text, NOW_S).user


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


@run_async
async def test_a_rotated_key_is_found_and_an_invented_one_asks_rarely() -> None:
    provider = Provider(jwk("ES256", "old"))
    tokens = provider.tokens()
    assert await user(tokens, token("ES256", "old")) == "ana"
    fresh = ec.generate_private_key(ec.SECP256R1())
    provider.keys = [jwk("ES256", "new", fresh)]
    for _ in range(50):
        with pytest.raises(TokenInvalid):
            await user(tokens, token("ES256", "invented"))
    assert provider.asked == 1, "not so soon after the first"
    provider.now += AGAIN_S
    assert await user(tokens, token("ES256", "new", fresh)) == "ana"
    with pytest.raises(TokenInvalid):
        await user(tokens, token("ES256", "old"))
    assert provider.asked == 2


@run_async
async def test_a_provider_that_is_away_takes_no_known_key_along() -> None:
    provider = Provider(jwk("EdDSA", "a"))
    tokens = provider.tokens()
    assert await user(tokens, token("EdDSA", "a")) == "ana"
    provider.now += FRESH_S + 1
    for provider.broken in (OSError("no route"), ValueError("no JSON")):
        provider.now += AGAIN_S
        assert await user(tokens, token("EdDSA", "a")) == "ana"
        await until(lambda: tokens._keys is not None and tokens._keys._fetching is None)  # what is fetched on the side
    assert provider.asked == 3


@run_async
async def test_keys_of_no_use_are_left_out() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I", "kid": "shared"}
    useless = [secret, {"kty": "??"}, {**jwk("ES256", "enc"), "use": "enc"}, {"kty": "RSA", "kid": "half"}]
    provider = Provider(*useless, jwk("RS256", "good"))
    tokens = provider.tokens()
    assert await user(tokens, token("RS256", "good")) == "ana"
    shared = jwt.encode({"sub": "x"}, b"secret-secret-secret-secret-secr", headers={"kid": "shared"})
    for text in (token("ES256", "enc"), shared):
        with pytest.raises(TokenInvalid):
            await user(tokens, text)


@run_async
async def test_nothing_is_fetched_for_who_brings_no_token_of_that_kind() -> None:
    provider = Provider()
    tokens = provider.tokens()
    for text in ("", "x", "a.b.c", jwt.encode({"sub": "ana"}, "s" * 32), "e" * 9000):
        await tokens.prepare(text)
    assert provider.asked == 0
