"""
TLS that ends in the workers: the context that every adopted connection is wrapped in.

Runs in the worker, and once in the primary, which only wants to know at the start whether the files are good. The
primary's part of a TLS connection is its address: what is inside is between the client and the worker.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from realtime.errors import SettingsError
from realtime.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """
    Read the certificate and its key; None where none is configured. Which context is in use is up to `Certificates`.

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
        name, problem = _what_is_wrong(certfile, keyfile, error)
        raise SettingsError(name, settings.source(name), problem) from None
    return context


def _what_is_wrong(certfile: Path, keyfile: Path, error: Exception) -> tuple[str, str]:
    """
    Return the setting whose file is wrong, and the sentence. OpenSSL's own reason does not say which file it is.

    The files may be written right now. What is read here can thus be good where OpenSSL's reading failed.
    """
    with contextlib.suppress(OSError):
        try:
            load_pem_x509_certificates(certfile.read_bytes())
        except ValueError:
            return "certfile", f"{certfile} holds no whole certificate (PEM)"
        try:
            load_pem_private_key(keyfile.read_bytes(), None)
        except (ValueError, UnsupportedAlgorithm):
            return "keyfile", f"{keyfile} holds no whole private key (PEM)"
        except TypeError:
            pass  # it has a password, which `error` says
    reason = getattr(error, "reason", None) or str(error)
    return "certfile", f"{certfile} and {keyfile} are no certificate and its key ({reason})"


def _no_password() -> str:
    raise ValueError("the key has a password")
