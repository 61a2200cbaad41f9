"""
TLS that ends in the workers: the context that every adopted connection is wrapped in.

Runs in the worker, and once in the primary, which only wants to know at the start whether the files are good. The
primary's part of a TLS connection is its address: what is inside is between the client and the worker.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from realtime.errors import SettingsError
from realtime.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """
    Read the certificate and its key; None where none is configured.

    Raises:
        SettingsError: a file is not there, is no PEM, needs a password, or the two do not belong together.
    """
    if settings.certfile is None or settings.keyfile is None:
        return None
    certfile, keyfile = (Path(settings.directory, each) for each in (settings.certfile, settings.keyfile))
    for name, path in (("certfile", certfile), ("keyfile", keyfile)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(name, settings.source(name), f"{path} cannot be read: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certfile, keyfile, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        problem = f"{certfile} and {keyfile} are no certificate and its key ({reason})"
        raise SettingsError("certfile", settings.source("certfile"), problem) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")
