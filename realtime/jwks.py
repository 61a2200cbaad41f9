"""
Public keys that verify tokens: from a PEM file, and from the address at which an identity provider publishes its keys.

Runs in the worker. A `KeySet` holds what is known now and says which key a token's head names; it verifies nothing
itself (auth.py). Keys are fetched anew when a token names one that is not known (a provider has rotated), at most once
in `AGAIN_S`, by all tokens that wait together; and when the old ones are `FRESH_S` old. A provider that does not answer
costs nothing but the tokens of new keys: the known ones go on.

JSON Web Key Sets: RFC 7517. Which algorithm a key is for: RFC 7518, section 3.1, and RFC 8037.
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from realtime.errors import SettingsError

AGAIN_S: Final = 10.0  # between two fetches
FRESH_S: Final = 3600.0
TIMEOUT_S: Final = 5.0
SIZE_MAX: Final = 1024**2

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA: Final = ("RS256", "RS384", "RS512")
ALGORITHMS: Final = (*_RSA, *_CURVES.values(), "EdDSA")

logger = logging.getLogger("realtime.auth")


def algorithms_of(key: Any) -> tuple[str, ...]:
    """Return the algorithms that a public key may verify: never one of another kind."""
    if isinstance(key, RSAPublicKey):
        return _RSA
    if isinstance(key, EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        return (name,) if name else ()
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()


def load_public_key(path: Path) -> Any:
    """
    Return the public key in a PEM file, or that of a certificate.

    Raises:
        SettingsError: there is none that verifies tokens.
    """
    try:
        text = path.read_bytes()
        is_certificate = b"BEGIN CERTIFICATE" in text
        key = load_pem_x509_certificate(text).public_key() if is_certificate else load_pem_public_key(text)
    except OSError as error:
        raise SettingsError("token_public_key", "--token-public-key", f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError("token_public_key", "--token-public-key", f"{path} holds no public key in PEM") from error
    if not algorithms_of(key):
        raise SettingsError("token_public_key", "--token-public-key", f"{path}: only RSA, P-256/384/521 and Ed25519")
    return key


class KeySet:
    """The public keys that are believed."""

    def __init__(
        self,
        fixed: Any = None,
        url: str | None = None,
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            fixed: a public key that is always believed.
            url: where a JSON Web Key Set is published.
            fetch: reads a URL, in a thread.
            clock: seconds.
        """
        self._fixed = fixed
        self._url = url
        self._fetch = fetch or _read
        self._clock = clock
        self._keys: dict[str | None, Any] = {}
        self._asked_at: float | None = None
        self._fetched_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def find(self, head: Mapping[str, Any]) -> Any:
        """Return the key that a token's head names and that may verify its algorithm, or None."""
        kid = head.get("kid")
        candidates = [self._keys.get(kid)] if kid is not None else list(self._keys.values())
        for key in (*candidates, self._fixed):
            if key is not None and head.get("alg") in algorithms_of(key):
                return key
        return None

    async def prepare(self, head: Mapping[str, Any]) -> None:
        """Fetch the keys, where that could help with this token; they are then there, or the provider is away."""
        if self._url is None or head.get("alg") not in ALGORITHMS:
            return
        now = self._clock()
        stale = self._fetched_at is None or now - self._fetched_at > FRESH_S
        if self.find(head) is not None and not stale:
            return
        if self._fetching is None:
            if self._asked_at is not None and now - self._asked_at < AGAIN_S:
                return
            self._asked_at = now
            self._fetching = asyncio.get_running_loop().create_task(self._update())
        if self.find(head) is None:  # else the old key will do, and the new ones come on the side
            await asyncio.shield(self._fetching)

    async def _update(self) -> None:
        assert self._url is not None, "else there is nothing to fetch"
        try:
            text = await asyncio.to_thread(self._fetch, self._url)
            self._keys = _parse(text)
            self._fetched_at = self._clock()
            logger.info("= %d keys from %s", len(self._keys), self._url)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            logger.warning("! no keys from %s: %s", self._url, error)
        finally:
            self._fetching = None


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - the setting allows http(s) alone
        text: bytes = response.read(SIZE_MAX + 1)
    if len(text) > SIZE_MAX:
        raise ValueError(f"more than {SIZE_MAX} bytes")
    return text


def _parse(text: bytes) -> dict[str | None, Any]:
    """Return the keys of a set by their ids. One that is of no use here is left out, as the RFC wants it."""
    keys: dict[str | None, Any] = {}
    for each in msgspec.json.decode(text, type=dict[str, Any]).get("keys", []):
        if not isinstance(each, dict) or each.get("use", "sig") != "sig" or each.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK.from_dict(each).key
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            continue
        if algorithms_of(key):
            keys[each.get("kid")] = key
    if not keys:
        raise ValueError("it holds no public key that verifies tokens")
    return keys
