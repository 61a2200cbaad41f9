"""
What two settings mean for each other: the checks that no field can make alone.

Pure. `sources.py` calls `check_relations` when all values are known, so that a contradiction ends the start with one
sentence. It changes no value.
"""

from __future__ import annotations

from realtime.errors import SettingsError
from realtime.settings.fields import KEY_BYTES, Settings
from realtime.settings.quantities import seconds_text


def check_relations(settings: Settings) -> None:
    """
    Check what no field can see alone.

    Raises:
        SettingsError: two values contradict each other. It is laid on one that was given rather than on a default.
    """
    for names, holds, problem in _relations(settings):
        if not holds:
            name = next((name for name in names if name in settings.sources), names[0])
            raise SettingsError(name, settings.source(name), problem)


def _relations(of: Settings) -> list[tuple[tuple[str, ...], bool, str]]:
    """
    Give each relation as: the fields in it, whether it holds, and the sentence for when it does not.

    The first field that was given is named as the wrong one, so the fields stand in the order of what to change.
    """
    ping, pong, hung, beat = (seconds_text(each) for each in (of.ping_s, of.pong_s, of.hung_s, of.heartbeat_s))
    session, token = of.sticky == "session", of.reads_tokens
    return [
        (("pong_s", "ping_s"), of.pong_s < of.ping_s, f"pong ({pong}) must be shorter than ping ({ping})"),
        (("hung_s", "heartbeat_s"), of.hung_s >= 2 * of.heartbeat_s,
         f"hung ({hung}) must be at least twice heartbeat ({beat}), else healthy workers are killed"),
        (("certfile",), of.certfile is None or of.keyfile is not None, "certfile needs keyfile beside it"),
        (("keyfile",), of.keyfile is None or of.certfile is not None, "keyfile needs certfile beside it"),
        (("sticky", "certfile"), not (session and of.certfile),
         "sticky session cannot be combined with TLS that ends in the workers (the cookie is encrypted): "
         "end TLS in a proxy, or use sticky ip"),
        *(((f"{name}_previous",), getattr(of, f"{name}_previous") is None or getattr(of, name) is not None,
           f"{name}_previous has no meaning without {name}, which replaces it")
          for name in ("secret", "token_hmac_secret")),
        (("proxy_protocol",), not of.proxy_protocol or bool(of.trusted_proxies),
         "proxy_protocol needs trusted_proxies: any other client could claim any address"),
        *(((name,), session or getattr(of, name) is None,
           f"{name} has no meaning with sticky {of.sticky}: set sticky to session")
          for name in ("session_param", "session_header", "session_path")),
        *(((name,), token or getattr(of, name) is None,
           f"{name} needs token_hmac_secret or public keys: without them no token is read")
          for name in ("token_audience", "token_issuer")),
        (("anonymous",), of.allows_anonymous or token,
         "no client could connect: anonymous is no, and there is no token_hmac_secret, public key or JWKS"),
        (("inspect",), of.inspect is None or of.inspect < of.workers,
         f"there is no slot {of.inspect} with {of.workers} workers"),
        (("reload_dir",), of.reload or not of.reload_dir, "reload_dir has no meaning without reload"),
        (("bind",), bool(of.bind), "there must be at least one address to listen on"),
        (("api_key",), all(len(each.encode()) >= KEY_BYTES for each in of.api_keys),
         f"each key of api_key has to have at least {KEY_BYTES} bytes; `openssl rand -hex 32` makes a good one"),
    ]  # fmt: skip
