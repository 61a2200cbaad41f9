"""
The certificate follows its files: renamed, written in place, or behind a link that is swapped. What is no pair changes
nothing, and says so once.
"""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from realtime.settings import Settings
from realtime.transport.certificates import CHECK_S, KEPT, SETTLED_S, Certificates
from sticky.loop.log_lines import line as line_of
from tests.process.test_tls import make_certificate, trusting_anybody


class Files:
    """A directory with a pair in it, another with the next pair, and the clocks that `Certificates` reads."""

    def __init__(self, directory: Path) -> None:
        self.here, self.next = directory / "here", directory / "next"
        self.now, self.wall = 1000.0, 0.0
        for each, name in ((self.here, "first"), (self.next, "other")):
            each.mkdir()
            make_certificate(each, name)
        self.settle()

    def settle(self) -> None:
        """Let so much time pass that another write would show in the files' times."""
        self.wall = max(path.stat().st_mtime for path in self.here.iterdir()) + SETTLED_S

    def certificates(self) -> Certificates:
        settings = Settings(certfile=str(self.here / "cert.pem"), keyfile=str(self.here / "key.pem"))
        return Certificates(settings, clock=lambda: self.now, wall_clock=lambda: self.wall)

    def context(self, certificates: Certificates) -> ssl.SSLContext:
        """Return the context after the time of one check."""
        self.now += CHECK_S
        context = certificates.context()
        assert context is not None
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def served_by(context: ssl.SSLContext) -> str:
    """Return the subject that a client sees in a handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting_anybody().wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).subject.rfc4514_string()


def rename(files: Files) -> None:
    for name in ("cert.pem", "key.pem"):
        (files.next / name).replace(files.here / name)


def write_in_place(files: Files) -> None:
    for name in ("cert.pem", "key.pem"):
        (files.here / name).write_bytes((files.next / name).read_bytes())


@pytest.mark.parametrize("change", [rename, write_in_place])
def test_a_new_pair_is_for_the_handshakes_from_then_on(files: Files, change: Callable[[Files], None]) -> None:
    certificates = files.certificates()
    before = files.context(certificates)
    assert files.context(certificates) is before
    change(files)
    after = files.context(certificates)
    assert (served_by(before), served_by(after)) == ("CN=first", "CN=other")
    assert files.context(certificates) is after


def test_a_link_that_is_swapped_is_a_new_pair(tmp_path: Path) -> None:
    """As Kubernetes does it: `tls.crt` is a link through `..data`, which is a link to a directory of the day."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for name in ("first", "second"):
        (mount / name).mkdir()
        make_certificate(mount / name, name)
    (mount / "..data").symlink_to("first")
    for name in ("cert.pem", "key.pem"):
        (mount / name).symlink_to(f"..data/{name}")
    now = 0.0
    settings = Settings(certfile=str(mount / "cert.pem"), keyfile=str(mount / "key.pem"))
    certificates = Certificates(settings, clock=lambda: now, wall_clock=lambda: 2e9 + 1e8)
    (mount / "..data_tmp").symlink_to("second")
    (mount / "..data_tmp").replace(mount / "..data")
    now += CHECK_S
    context = certificates.context()
    assert context is not None
    assert served_by(context) == "CN=second"


def test_the_files_are_looked_at_once_a_second(files: Files) -> None:
    certificates = files.certificates()
    before = files.context(certificates)
    rename(files)
    files.now += CHECK_S / 2
    assert certificates.context() is before
    files.now += CHECK_S / 2
    assert certificates.context() is not before


def test_a_second_write_that_leaves_size_and_time_as_they_were_is_noticed(files: Files) -> None:
    """A kernel's clock for files stands still for milliseconds."""
    paths = [files.here / name for name in ("cert.pem", "key.pem")]
    sizes = [each.stat().st_size for each in paths]
    while [(files.next / each.name).stat().st_size for each in paths] != sizes:  # a signature has 70 to 72 bytes
        make_certificate(files.next, "other")
    second = 2_000_000_000
    for each in paths:
        os.utime(each, (second, second))
    files.wall = second + 0.001
    certificates = files.certificates()
    assert served_by(files.context(certificates)) == "CN=first"
    before = [each.stat() for each in paths]
    write_in_place(files)
    for each in paths:
        os.utime(each, (second, second))
    states = [(each.st_ino, each.st_size, each.st_mtime_ns) for each in before]
    assert [(each.st_ino, each.st_size, each.st_mtime_ns) for each in map(Path.stat, paths)] == states
    assert served_by(files.context(certificates)) == "CN=other"


def test_files_that_are_touched_change_nothing(files: Files) -> None:
    certificates = files.certificates()
    before = files.context(certificates)
    for path in files.here.iterdir():
        os.utime(path)
    assert files.context(certificates) is before


def half_a_certificate(files: Files) -> str:
    path = files.here / "cert.pem"
    path.write_bytes(path.read_bytes()[:300])
    return f"{path} holds no whole certificate (PEM)"


def an_empty_key(files: Files) -> str:
    path = files.here / "key.pem"
    path.write_bytes(b"")
    return f"{path} holds no whole private key (PEM)"


def no_key(files: Files) -> str:
    path = files.here / "key.pem"
    path.unlink()
    return f"{path} cannot be read: No such file or directory"


def the_key_of_another(files: Files) -> str:
    shutil.copy(files.next / "key.pem", files.here / "key.pem")
    return (
        f"{files.here / 'cert.pem'} and {files.here / 'key.pem'} are no certificate and its key (KEY_VALUES_MISMATCH)"
    )


@pytest.mark.parametrize("spoil", [half_a_certificate, an_empty_key, no_key, the_key_of_another])
def test_what_is_no_pair_leaves_the_one_before_in_use_and_is_said_once(
    files: Files, spoil: Callable[[Files], str], caplog: pytest.LogCaptureFixture
) -> None:
    certificates = files.certificates()
    before = files.context(certificates)
    problem = spoil(files)
    with caplog.at_level(logging.WARNING, "realtime.tls"):
        for _ in range(3):
            assert files.context(certificates) is before
    [line] = caplog.messages
    assert line == line_of(KEPT, reason=problem)
    assert served_by(before) == "CN=first"
    rename(files)
    assert served_by(files.context(certificates)) == "CN=other"


def test_without_a_certificate_there_is_no_context() -> None:
    assert Certificates(Settings()).context() is None
