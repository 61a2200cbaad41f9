"""
Who a client is: tokens.

Pure: texts and a time in, claims or an error out. Runs in the worker. Signatures are PyJWT's business; what the claims
mean is here (Centrifuge client protocol, section 10). Nothing here is told to a client: that is for the protocol.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec

from realtime.errors import TokenExpired, TokenInvalid
from realtime.jwks import ALGORITHMS as PUBLIC_ALGORITHMS
from realtime.jwks import KeySet
from realtime.revocation import Revoked

ALGORITHMS: Final = ("HS256", "HS384", "HS512")  # never `none`, and no public-key algorithm beside a shared secret

# PyJWT compares with the clock of the machine; here the time is an argument, so the times are checked below.
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
    """What a connection token says. `info` is a JSON text; `expire_at_s` is Unix time, None for never."""

    user: str
    raw: dict[str, Any]
    expire_at_s: float | None = None
    info: bytes | None = None
    channels: tuple[str, ...] = ()
    meta: Any = None


@dataclass(frozen=True, slots=True)
class SubscriptionClaims:
    """What a subscription token says. `info` and `data` are JSON texts."""

    user: str
    channel: str
    client: str | None = None
    expire_at_s: float | None = None
    info: bytes | None = None
    data: bytes | None = None


class Tokens:
    """Verifies tokens: by a shared secret, or by public keys."""

    def __init__(
        self,
        hmac_secret: str | None,
        *,
        keys: KeySet | None = None,
        audience: str | None = None,
        issuer: str | None = None,
        revoked: Revoked | None = None,
    ) -> None:
        """
        Args:
            hmac_secret: verifies HS256 and its like; None refuses those.
            keys: verify RS256, ES256, EdDSA and their like; None refuses those.
            audience: what `aud` must hold, where given.
            issuer: what `iss` must be, where given.
            revoked: which tokens are not good any more; they are taken for expired, so that clients fetch others.
        """
        self.revoked = revoked if revoked is not None else Revoked()
        self._secret = hmac_secret
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    async def prepare(self, token: str) -> None:
        """Fetch the key that this token names, where that is needed. Whether it is good, `connection` says."""
        if self._keys is not None:
            try:
                head = jwt.get_unverified_header(token)
            except (jwt.PyJWTError, RecursionError):
                return
            await self._keys.prepare(head)

    def connection(self, token: str, now_s: float) -> ConnectionClaims:
        """
        Verify a connection token.

        Raises:
            TokenExpired: it was good until some time before `now_s`, or until it was revoked.
            TokenInvalid: it is not signed by our secret, not for us, or a subscription token.
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
        Verify a subscription token. That it is for this client and room is for the caller to compare.

        Raises:
            TokenExpired: it was good until some time before `now_s`.
            TokenInvalid: it is not signed by our secret, not for us, or names no room.
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
        try:
            key, algorithms = self._key_of(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=algorithms, options=_OPTIONS)  # type: ignore[arg-type]
        except (jwt.PyJWTError, RecursionError) as error:  # the head is parsed before anything is proven
            raise TokenInvalid(str(error)) from error
        try:
            msgspec.json.encode(claims)
        except UnicodeEncodeError as error:  # nobody could be told of it
            raise TokenInvalid("a text ends in the middle of a character") from error
        self._check_addressee(claims)
        expires, begins = _time(claims, "exp"), _time(claims, "nbf")
        if expires is not None and expires <= now_s:
            raise TokenExpired(f"it expired {now_s - expires:.0f} s ago")
        if begins is not None and begins > now_s:
            raise TokenInvalid(f"it is not valid for {begins - now_s:.0f} s yet")
        if self.revoked.covers(claims, now_s):
            raise TokenExpired("it was revoked")
        return claims

    def _key_of(self, head: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return what verifies a token of this head: for an HMAC the secret and nothing else, else a public key."""
        algorithm = head.get("alg")
        if algorithm in PUBLIC_ALGORITHMS:
            key = self._keys.find(head) if self._keys is not None else None
            if key is None:
                raise TokenInvalid(f"no key is known that verifies {algorithm} with this `kid`")
            return key, [algorithm]
        if self._secret is None:
            raise TokenInvalid("no secret is configured to verify it with")
        return self._secret, list(ALGORITHMS)

    def _check_addressee(self, claims: Mapping[str, Any]) -> None:
        if self._audience is not None:
            audience = claims.get("aud")
            if self._audience not in (audience if isinstance(audience, list) else [audience]):
                raise TokenInvalid("`aud` names somebody else")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise TokenInvalid("`iss` is somebody else")


def channels_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """
    Return the rooms that a connection token gives.

    Raises:
        TokenInvalid: they have another shape.
    """
    return tuple(dict.fromkeys([*_texts(claims, "channels"), *_keys(claims, "subs")]))


def sign(claims: Mapping[str, Any], hmac_secret: str) -> str:
    """Return a token (HS256) that says `claims`."""
    return jwt.encode(dict(claims), hmac_secret, algorithm="HS256")


def _user(claims: Mapping[str, Any]) -> str:
    user = claims.get("sub", "")
    if not isinstance(user, str):
        raise TokenInvalid("`sub` is no text")
    return user


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TokenInvalid(f"`{name}` is no time")
        return float(value)
    except OverflowError:  # a whole number that no float holds
        raise TokenInvalid(f"`{name}` is no time") from None


def _expire_at(claims: Mapping[str, Any]) -> float | None:
    """Return when what the token began has to end: `expire_at` where given (0 is never), else `exp`."""
    chosen = _time(claims, "expire_at")
    if chosen is None:
        return _time(claims, "exp")
    return chosen or None


def _json(claims: Mapping[str, Any], name: str) -> bytes | None:
    """Return a claim as a JSON text; `b64…` carries it in base 64."""
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
    value = claims.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TokenInvalid(f"`{name}` is no list of texts")
    return value


def _keys(claims: Mapping[str, Any], name: str) -> list[str]:
    value = claims.get(name) or {}
    if not isinstance(value, dict):
        raise TokenInvalid(f"`{name}` is no object")
    return list(value)
