"""
Verifies tokens, and reads the user and the rights of a client from them.

Runs in the worker. Texts and a time in, claims or an error out; only `verify_…` waits, for keys. PyJWT checks the
signatures, this module checks the claims (Centrifuge client protocol, section 10). It never sends anything to a client;
the protocol does.

There are three kinds of refused tokens. RFC 7519 allows some leeway, because clocks differ.

- *Invalid*: it can never be good.
- *Expired*: another token would be good.
- *Unverified*: the same token may be good later, because its key is not known yet, or because it begins soon.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import jwt
import msgspec

from realtime.auth.jwks import ALGORITHMS as PUBLIC_ALGORITHMS
from realtime.auth.jwks import WAIT_S, KeySet
from realtime.auth.revocation import Revoked
from realtime.errors import TokenExpired, TokenInvalid, TokenUnverified

T = TypeVar("T")

LEEWAY_S: Final = 10.0  # by which clocks may differ; RFC 7519, section 4.1.4: "usually no more than a few minutes"
# A token that begins or was issued within this time is unverified; anything further off is invalid. Kerberos accepts at
# most this difference between two clocks (RFC 4120, section 8.2).
SOON_S: Final = 300.0

ALGORITHMS: Final = ("HS256", "HS384", "HS512")  # never `none`, and no public-key algorithm beside a shared secret

# PyJWT would compare with the clock of the machine. Here the time is an argument, so this module checks the times.
_OPTIONS: Final[dict[str, Any]] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True)
class ConnectionClaims:
    """The claims of a connection token. `info` is a JSON text; `expire_at_s` is Unix time, None for never."""

    user: str
    raw: dict[str, Any]
    expire_at_s: float | None = None
    info: bytes | None = None
    channels: tuple[str, ...] = ()
    meta: Any = None


@dataclass(frozen=True, slots=True)
class SubscriptionClaims:
    """The claims of a subscription token. `info` and `data` are JSON texts."""

    user: str
    channel: str
    client: str | None = None
    expire_at_s: float | None = None
    info: bytes | None = None
    data: bytes | None = None


class KeyUnknown(TokenInvalid):
    """No known key verifies the token. The key server may have published one meanwhile."""


class Tokens:
    """Verifies tokens: by a shared secret, or by public keys."""

    def __init__(
        self,
        hmac_secret: str | None,
        *,
        hmac_secret_previous: str | None = None,
        keys: KeySet | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        revoked: Revoked | None = None,
        leeway_s: float = 0.0,
    ) -> None:
        """
        Args:
            hmac_secret: verifies HS256, HS384 and HS512; None refuses those.
            hmac_secret_previous: the secret that it replaces, which verifies them as well.
            keys: verify RS256, ES256, EdDSA and the other public-key algorithms; None refuses those.
            audience: the value that `aud` must contain, where given.
            issuer: the value that `iss` must have, where given.
            revoked: the revoked tokens; they count as expired, so that clients fetch others.
            leeway_s: how far the issuer's clock may differ, in either direction.
        """
        self.revoked = revoked if revoked is not None else Revoked()
        self._secrets = tuple(each for each in (hmac_secret, hmac_secret_previous) if each is not None)
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s

    @property
    def are_configured(self) -> bool:
        """Whether there is a secret or a key: else no token can be good."""
        return bool(self._secrets) or self._keys is not None

    async def close(self) -> None:
        """Cancel a running fetch of keys."""
        if self._keys is not None:
            await self._keys.close()

    # With a wait for an unknown key

    async def verify_connection(self, token: str, now: Callable[[], float] = time.time) -> ConnectionClaims:
        """
        Verify a connection token. Wait for its key if that is not known yet.

        Raises:
            TokenUnverified: it cannot be verified now; the same token may be good later.
            TokenExpired, TokenInvalid: as `connection`.
        """
        return await self._verified(lambda: self.connection(token, now()), lambda: self._unknown(token, now()))

    async def verify_subscription(self, token: str, now: Callable[[], float] = time.time) -> SubscriptionClaims:
        """
        Verify a subscription token. Wait for its key if that is not known yet.

        Raises:
            TokenUnverified: it cannot be verified now; the same token may be good later.
            TokenExpired, TokenInvalid: as `subscription`.
        """
        return await self._verified(lambda: self.subscription(token, now()), lambda: self._unknown(token, now()))

    async def _verified(self, read: Callable[[], T], unknown: Callable[[], Exception]) -> T:
        """
        Return what `read` returns, and wait for a fetch of keys if that raises `KeyUnknown`.

        A fetch that began before the token arrived proves nothing about its key: the provider may have published the
        key since. So the token waits for one that began later. `unknown` then makes the refusal.
        """
        keys = self._keys
        try:
            claims = read()
        except KeyUnknown:
            assert keys is not None, "_open raises KeyUnknown only where a key set has a url"
        else:
            if keys is not None:
                keys.refresh_if_old()
            return claims
        arrived = keys.now()
        if keys.load_cached():  # another worker may have fetched the key already, which costs no request
            with contextlib.suppress(KeyUnknown):
                return read()
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    began_at = await keys.fetched()
                    try:
                        return read()
                    except KeyUnknown:
                        if began_at >= arrived:
                            raise unknown() from None
        except TimeoutError:
            raise TokenUnverified(f"the key server has not answered within {WAIT_S:g} s") from None

    def _unknown(self, token: str, now_s: float) -> Exception:
        """
        Return the refusal of a token whose key the key server does not publish, even after the token arrived.

        The claims are not verified here. They only choose between refusals.
        """
        try:
            claims = jwt.decode(token, options={**_OPTIONS, "verify_signature": False})  # type: ignore[arg-type]
            issued, expires = _time(claims, "iat"), _time(claims, "exp")
        except (jwt.PyJWTError, RecursionError, TokenInvalid) as error:
            return TokenInvalid(str(error))
        if expires is not None and expires + self._leeway_s <= now_s:
            return TokenExpired("it has expired, and its key is not published any more")
        if issued is None:
            return TokenInvalid("the key server does not publish its key")
        if issued + SOON_S <= now_s:
            return TokenExpired("the key server does not publish its key any more")
        return TokenUnverified("it was issued just now, and the key server does not publish its key yet")

    # With the keys that are known now

    def connection(self, token: str, now_s: float) -> ConnectionClaims:
        """
        Verify a connection token.

        Raises:
            TokenExpired: it expired before `now_s`, or was revoked.
            TokenUnverified: it begins soon.
            TokenInvalid: its signature, audience or issuer is wrong, or it is a subscription token.
        """
        claims = self._verify(token, now_s)
        if "channel" in claims:
            raise TokenInvalid("a subscription token cannot connect")
        return ConnectionClaims(
            user=_user(claims),
            raw=claims,
            expire_at_s=_expire_at(claims),
            info=_json(claims, "info"),
            channels=channels_of(claims),
            meta=claims.get("meta"),
        )

    def subscription(self, token: str, now_s: float) -> SubscriptionClaims:
        """
        Verify a subscription token. The caller must compare its user, connection id and room.

        Raises:
            TokenExpired: it expired before `now_s`, or was revoked.
            TokenUnverified: it begins soon.
            TokenInvalid: its signature, audience or issuer is wrong, or it names no room.
        """
        claims = self._verify(token, now_s)
        channel = claims.get("channel")
        if not isinstance(channel, str) or not channel:
            raise TokenInvalid("it names no channel")
        client = claims.get("client")
        if client is not None and not isinstance(client, str):
            raise TokenInvalid("`client` is no text")
        return SubscriptionClaims(
            user=_user(claims),
            channel=channel,
            client=client,
            expire_at_s=_expire_at(claims),
            info=_json(claims, "info"),
            data=_json(claims, "data"),
        )

    def _verify(self, token: str, now_s: float) -> dict[str, Any]:
        """
        Verify a token by the keys that are known now, and return its claims.

        Raises:
            KeyUnknown: the key server may have its key: fetch and try again.
            TokenExpired: it was good once, or was revoked; a client fetches another.
            TokenInvalid: it is not for this server, and never will be.
            TokenUnverified: it is about to begin to be valid.
        """
        try:
            claims = self._open(token)
        except (jwt.PyJWTError, RecursionError) as error:  # RecursionError: the head is parsed before it is verified
            raise TokenInvalid(str(error)) from error
        # The order matters: whether a token is for this server at all comes before whether it has expired. Otherwise a
        # foreign token would be answered "expired", and its client would fetch another of the same kind for ever.
        try:
            msgspec.json.encode(claims)
        except UnicodeEncodeError as error:  # such a text cannot be sent to any client
            raise TokenInvalid("a text ends in the middle of a character") from error
        self._check_addressee(claims)
        self._check_times(claims, now_s)
        if self.revoked.covers(claims, now_s):
            raise TokenExpired("it was revoked")
        return claims

    def _check_times(self, claims: Mapping[str, Any], now_s: float) -> None:
        """Compare `exp` and `nbf` with the time. `iat` refuses nothing (RFC 7519, section 4.1.6)."""
        expires, begins = _time(claims, "exp"), _time(claims, "nbf")
        if expires is not None and expires + self._leeway_s <= now_s:
            raise TokenExpired(f"it expired {now_s - expires:.0f} s ago")
        if begins is None or begins - self._leeway_s <= now_s:
            return
        why = f"it is not valid for {begins - now_s:.0f} s yet"
        if begins - now_s > SOON_S or (expires is not None and expires <= begins):
            raise TokenInvalid(why)
        raise TokenUnverified(why)

    def _open(self, token: str) -> dict[str, Any]:
        """
        Verify the signature, and return the claims.

        A token with an HMAC is verified by the secrets alone, any other by a public key that its head names. Where
        several keys match, each is tried (RFC 7517, section 4.5). So is each secret, while one replaces the other.

        Raises:
            KeyUnknown: no known key verifies it, and the key server may publish another one.
            TokenInvalid: no key may verify it.
        """
        head = jwt.get_unverified_header(token)
        algorithm = head.get("alg")
        if algorithm not in PUBLIC_ALGORITHMS:
            return self._open_by_secret(token)
        if self._keys is None:
            raise TokenInvalid(f"no key is configured that verifies {algorithm}")
        candidates = self._keys.find(head)
        for key in candidates.keys:
            try:
                return _decode(token, key, [algorithm])
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue  # the next key may match
        why = f"no known key verifies {algorithm} with {'this' if 'kid' in head else 'no'} `kid`"
        if self._keys.url is None or (candidates.is_named and self._keys.is_recent):
            raise TokenInvalid(why)
        raise KeyUnknown(why)

    def _open_by_secret(self, token: str) -> dict[str, Any]:
        if not self._secrets:
            raise TokenInvalid("no secret is configured to verify it with")
        for secret in self._secrets[:-1]:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return _decode(token, secret, list(ALGORITHMS))
        return _decode(token, self._secrets[-1], list(ALGORITHMS))

    def _check_addressee(self, claims: Mapping[str, Any]) -> None:
        """Check `aud` and `iss` where settings give them. A set of keys may sign for several applications."""
        if self._audience is not None:
            audience = claims.get("aud")
            if self._audience not in (audience if isinstance(audience, list) else [audience]):
                raise TokenInvalid("`aud` names another audience")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise TokenInvalid("`iss` names another issuer")


def channels_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """
    Return the rooms to which a connection token subscribes its connection.

    Raises:
        TokenInvalid: `channels` is no list of texts, or `subs` is no object.
    """
    return tuple(dict.fromkeys([*_texts(claims, "channels"), *_keys(claims, "subs")]))


def sign(claims: Mapping[str, Any], hmac_secret: str) -> str:
    """Return a token with these claims, signed with HS256."""
    return jwt.encode(dict(claims), hmac_secret, algorithm="HS256")


def _decode(token: str, key: Any, algorithms: list[str]) -> dict[str, Any]:
    """Verify a signature with one key. Times and addressee are checked later, by our own rules."""
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=algorithms, options=_OPTIONS)  # type: ignore[arg-type]
    return claims


def _user(claims: Mapping[str, Any]) -> str:
    """Return the user; empty for none. RFC 7519, section 4.1.2, requires a text, so a number is refused."""
    user = claims.get("sub", "")
    if not isinstance(user, str):
        raise TokenInvalid(f'`sub` is {_named(user)}, and has to be a text such as "42" (RFC 7519, section 4.1.2)')
    return user


def _named(value: object) -> str:
    """Return the JSON type of a value, for an error text."""
    if isinstance(value, bool):
        return "true or false"
    return "a number" if isinstance(value, int | float) else "no text"


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """
    Return a claim that is a time, None where the token lacks it.

    Raises:
        TokenInvalid: it is no finite number. In Python, true and false are numbers; here they are not.
    """
    value = claims.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TokenInvalid(f"`{name}` is no number of seconds (RFC 7519, section 2: NumericDate)")
        return float(value)
    except OverflowError:  # a whole number that no float holds
        raise TokenInvalid(f"`{name}` is no time") from None


def _expire_at(claims: Mapping[str, Any]) -> float | None:
    """Return when the connection or subscription expires: `expire_at` where given (0 is never), else `exp`."""
    chosen = _time(claims, "expire_at")
    if chosen is None:
        return _time(claims, "exp")
    return chosen or None  # 0, that is never


def _json(claims: Mapping[str, Any], name: str) -> bytes | None:
    """Return a claim as a JSON text. The claim `b64…` has it in base 64."""
    if (encoded := claims.get(f"b64{name}")) is not None:
        try:
            text = base64.b64decode(encoded, validate=True)
            msgspec.json.decode(text)
        except (TypeError, ValueError, binascii.Error, msgspec.MsgspecError) as error:
            raise TokenInvalid(f"`b64{name}` is no JSON in base 64") from error
        return text
    value = claims.get(name)
    return None if value is None else msgspec.json.encode(value)


def _texts(claims: Mapping[str, Any], name: str) -> list[str]:
    """
    Return a list of texts in the claims; none where the claim is absent. Another type makes the whole token invalid.
    """
    value = claims.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TokenInvalid(f"`{name}` is no list of texts")
    return value


def _keys(claims: Mapping[str, Any], name: str) -> list[str]:
    """Return the names in an object in the claims. What it says of each room is not used here."""
    value = claims.get(name) or {}
    if not isinstance(value, dict):
        raise TokenInvalid(f"`{name}` is no object")
    return list(value)
