"""
Public keys that verify tokens: from a PEM file, and from the URL at which an identity provider publishes its key set.

Runs in the worker. A `KeySet` holds the keys that are known now, and says which of them may verify a token. It verifies
nothing itself (tokens.py). It fetches the set when a token needs an unknown key, because the provider may have rotated
its keys. It also fetches the set when the known keys are `FRESH_S` old. All waiting tokens share one fetch.

**Pauses.** Every client can make up a token with an unknown key. After a fetch without new keys, the next one therefore
waits for `PAUSE_S`. The pause doubles each time, up to `AGAIN_S`. A fetch with new keys resets it, which no client can
cause. A token that comes within the pause schedules the next fetch and waits for it, up to `WAIT_S`. After that it is
unverified, never invalid. A key server that does not answer removes no known key.

JSON Web Key Sets: RFC 7517. The algorithms of a key: RFC 7518, section 3.1, and RFC 8037.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from realtime.auth import key_server
from realtime.auth.key_cache import KeyCache
from realtime.errors import SettingsError, TokenUnverified
from realtime.log_lines import log

PAUSE_S: Final = 1.0  # after a fetch; doubled by each fetch without new keys
AGAIN_S: Final = 10.0  # the longest pause
QUIET_S: Final = 60.0  # without a fetch, after which the pause is short again
FRESH_S: Final = 3600.0
RECENT_S: Final = 60.0  # a set younger than this certainly has the keys of its ids; an older one may be replaced
TIMEOUT_S: Final = 5.0  # for a whole answer, from the first packet to the last byte
WAIT_S: Final = 3.0  # for a client; an SDK abandons a command after 5 s
KEYS_MAX: Final = 64  # of a set; a token without a key id is tried with each key of its algorithm

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA: Final = ("RS256", "RS384", "RS512")
ALGORITHMS: Final = (*_RSA, *_CURVES.values(), "EdDSA")
# The members of a public key of each type (RFC 7518, section 6; RFC 8037, section 2), and PyJWT's name of its reader.
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_READERS: Final = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("EC", "P-521"): "ES512",
    ("OKP", "Ed25519"): "EdDSA",
}
_NAMES: Final = {"Ed25519": "EdDSA"}  # RFC 9864 names EdDSA by its curve

logger = logging.getLogger("realtime.auth")


def algorithms_of(key: Any) -> tuple[str, ...]:
    """Return the algorithms that a public key may verify: only those of its own type."""
    if isinstance(key, RSAPublicKey):
        return _RSA
    if isinstance(key, EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        return (name,) if name else ()
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()


def load_public_key(path: Path) -> Any:
    """
    Return the public key in a PEM file, or that of a certificate in it.

    Raises:
        SettingsError: the file has no key that verifies tokens.
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


class Key(NamedTuple):
    """One key of a set. `kid` is its id, or None."""

    kid: str | None
    algorithms: tuple[str, ...]
    public: Any


class Candidates(NamedTuple):
    """The public keys that may verify a token. `is_named`: the token names a key of the set, so no other key may."""

    keys: Sequence[Any]
    is_named: bool


class KeySet:
    """The trusted public keys."""

    def __init__(
        self,
        fixed: Any = None,
        url: str | None = None,
        *,
        cache: KeyCache | None = None,
        fetch: Callable[[str], Awaitable[bytes]] = key_server.fetch,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            fixed: a public key that is always trusted.
            url: where a JSON Web Key Set is published.
            cache: the file in which workers share the set.
            fetch: reads a URL; cancelling it ends the request.
            clock: seconds, on a clock that never goes back.
            sleep: waits for so many seconds of that clock.
        """
        self.url = url
        self._fixed = fixed
        self._cache = cache
        self._fetch = fetch
        self._clock = clock
        self._sleep = sleep
        self._published: list[dict[str, str]] = []
        self._keys: list[Key] = []
        self._is_used = False  # whether a token was checked since the last fetch
        self._fetched_at: float | None = None  # when the known set was fetched, by any worker
        self._began_at = 0.0  # when the last fetch of this worker began
        self._ended_at: float | None = None
        self._problem = ""  # why the last fetch failed
        self._fruitless = 0  # consecutive fetches without new keys
        self._is_requesting = False  # a request is sent; false while the fetch waits for the pause to end
        self._fetching: asyncio.Task[None] | None = None
        self.load_cached()

    # What is known

    def find(self, head: Mapping[str, Any]) -> Candidates:
        """
        Return the keys that may verify a token with this head.

        Without a key id, or with one that the set lacks, these are all keys of its algorithm without another id
        (RFC 7517, section 4.5).
        """
        self._is_used = True
        kid, algorithm = head.get("kid"), head.get("alg")
        named = [each for each in self._keys if kid is not None and each.kid == kid]
        if named:  # a key of another algorithm is never tried: that would be an algorithm confusion attack
            return Candidates([each.public for each in named if algorithm in each.algorithms], is_named=True)
        found = [
            each.public for each in self._keys if algorithm in each.algorithms and (kid is None or each.kid is None)
        ]
        if self._fixed is not None and algorithm in algorithms_of(self._fixed):
            found.append(self._fixed)
        return Candidates(found, is_named=False)

    @property
    def is_recent(self) -> bool:
        """Whether the set was fetched so recently that it certainly has the keys of its ids."""
        return self._fetched_at is not None and self._clock() - self._fetched_at < RECENT_S

    def now(self) -> float:
        """Return the time by the clock of `fetched`."""
        return self._clock()

    # Fetching

    def load_cached(self) -> bool:
        """Load the set if another worker fetched a newer one. Return whether there was one."""
        if self.url is None or self._cache is None or (cached := self._cache.load(self.url)) is None:
            return False
        age_s, published = cached
        fetched_at = self._clock() - age_s
        if self._fetched_at is not None and fetched_at <= self._fetched_at:
            return False
        self._replace_keys(published, fetched_at)
        return True

    def refresh_if_old(self) -> None:
        """Start a fetch if the set is used and old. The old keys stay good until the new ones arrive."""
        if self.url is None or not self._is_used or self._fetched_at is None:
            return
        if self._clock() - self._fetched_at > FRESH_S:
            self._schedule()

    async def fetched(self) -> float:
        """
        Wait for the running or the next fetch. Return when it began.

        Raises:
            TokenUnverified: it failed, or it is not due within `WAIT_S`.
        """
        fetching = self._schedule()  # even where this caller will not wait for it: the next token needs it
        due_in_s = 0.0 if self._is_requesting else self._due_at() - self._clock()
        if due_in_s > (0.0 if self._problem else WAIT_S):
            raise TokenUnverified(f"{self._problem or 'its key is not known'}; next request in {due_in_s:.0f} s")
        await asyncio.shield(fetching)  # a cancelled caller must not end the fetch of the others
        if self._problem:
            raise TokenUnverified(self._problem)
        return self._began_at

    async def close(self) -> None:
        """Cancel the running fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _schedule(self) -> asyncio.Task[None]:
        """Return the running fetch. Start one where there is none; it first waits for the pause to end."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._update())
        return self._fetching

    def _due_at(self) -> float:
        """Return when the next fetch may begin."""
        if self._ended_at is None:
            return self._clock()
        return self._ended_at + min(AGAIN_S, PAUSE_S * (1 << min(self._fruitless, 16)))

    async def _update(self) -> None:
        """
        Wait for the pause to end, fetch the set once, and note the result.

        Invariant: at most one such task exists, and `_fetching` is it. A failure leaves the known keys as they are.
        """
        assert self.url is not None, "KeyUnknown and refresh_if_old() need a url, and only they start a fetch"
        assert not self._is_requesting, "_schedule() starts no second task"
        try:
            if (pause_s := self._due_at() - self._clock()) > 0:
                await self._sleep(pause_s)
            self._is_requesting = True
            self._begin()
            before = self._published
            self._problem = await self._request(self.url)
            self._fruitless = 0 if not self._problem and self._published != before else self._fruitless + 1
        finally:
            self._is_requesting = False
            self._ended_at = self._clock()
            self._fetching = None

    def _begin(self) -> None:
        """Note the beginning of a fetch. After a quiet time, earlier fetches without new keys no longer count."""
        self._began_at = self._clock()
        self._is_used = False
        if self._ended_at is not None and self._began_at - self._ended_at > QUIET_S:
            self._fruitless = 0

    async def _request(self, url: str) -> str:
        """Send one request to the key server. Return the problem; empty when the keys were loaded."""
        shown = _shown(url)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                published = usable_keys(await self._fetch(url))
        except TimeoutError as error:
            why = str(error) or f"no whole answer within {TIMEOUT_S:g} s"
        except (OSError, ValueError) as error:
            why = str(error)
        else:
            self._replace_keys(published, self._began_at)
            if self._cache is not None:
                self._cache.save(url, published)
            log(logger, logging.INFO, "= keys fetched", url=shown, keys=len(self._keys))
            return ""
        log(logger, logging.WARNING, "keys not fetched", url=shown, reason=why)
        return f"there are no keys from {shown}: {why}"

    def _replace_keys(self, published: list[dict[str, str]], fetched_at: float) -> None:
        """Replace all keys of the set. A key that the provider withdrew is thus no longer trusted."""
        self._published, self._fetched_at = published, fetched_at
        self._keys = [key for each in published if (key := read_key(each)) is not None]


class _Jwk(msgspec.Struct):
    """One entry of a set, with the members used here (RFC 7517, section 4)."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: Any = None

    @property
    def is_for_us(self) -> bool:
        """Whether it is a public key for verifying signatures."""
        verifies = self.use in (None, "sig") and (self.key_ops is None or "verify" in self.key_ops)
        return verifies and self.kty in _MEMBERS and self.d is None


def usable_keys(text: bytes) -> list[dict[str, str]]:
    """
    Return the entries of a set that can verify tokens, each with its public members alone.

    Other entries are ignored and do no harm, as RFC 7517, section 5, requires.

    Raises:
        ValueError: there is no such entry.
    """
    try:
        entries = msgspec.json.decode(text, type=dict[str, Any]).get("keys")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"it is no key set: {error}") from None
    found: list[dict[str, str]] = []
    for entry in entries if isinstance(entries, list) else []:
        try:
            jwk = msgspec.convert(entry, _Jwk)
        except msgspec.ValidationError:
            continue
        if not jwk.is_for_us:
            continue
        if len(found) == KEYS_MAX:
            log(logger, logging.WARNING, "keys ignored", reason=f"a key set has more than {KEYS_MAX}")
            break
        names = ("kty", "kid", "alg", *_MEMBERS[jwk.kty])
        members = {name: value for name in names if (value := getattr(jwk, name)) is not None}
        if read_key(members) is not None:
            found.append(members)
    if not found:
        raise ValueError("it holds no public key that verifies tokens")
    return found


def read_key(jwk: Mapping[str, str]) -> Key | None:
    """Return the key that these public members describe, or None if it cannot verify tokens."""
    reader = _READERS.get((jwk.get("kty", ""), jwk.get("crv")))
    if reader is None:
        return None
    try:
        public = jwt.PyJWK(dict(jwk), reader).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    named = jwk.get("alg")  # narrows what the key may verify, and never widens it
    algorithms = [each for each in algorithms_of(public) if named is None or each == _NAMES.get(named, named)]
    return Key(jwk.get("kid"), tuple(algorithms), public) if algorithms else None


def _shown(url: str) -> str:
    """Return a URL without its user, password and query, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
