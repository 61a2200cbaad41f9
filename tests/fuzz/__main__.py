"""
The fuzz target: any bytes, through every reader of the primary and the worker's cutting of requests.

Run by `make fuzz`, which installs atheris (libFuzzer for Python). What has to hold is said once, in `check`, and
tests/fuzz/test_check.py runs that over the wire cases on every machine. libFuzzer leaves a crash in a file; the next
step is to make a wire case of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from sticky.handoff.channel import Kind
from tests.fuzz.check import check
from tests.sticky.wire_cases import load

MESSAGES = [
    msgspec.msgpack.encode(message)
    for message in (
        [Kind.READY],
        [Kind.ACK, 2, 1],
        [Kind.NACK, 1],
        [Kind.BEAT, 1, 1, {"open": 1}],
        [Kind.GIVE_BACK, b"GET / HTTP/1.1\r\n\r\n", "127.0.0.1", 1],
        [Kind.GIVE_BACK, None, "127.0.0.1", 1],
        [Kind.MESSAGE, "all", {"a": [1, 2.5, None]}],
        [Kind.DRAIN, 1.5],
        [Kind.EVENT, "exit", {"slot": 1}],
    )
]
FOLDERS = ("heads/valid", "heads/refused", "heads/tls", "proxy/valid", "proxy/refused")


def main() -> None:
    """Fuzz, with the wire cases as the corpus to begin with."""
    import atheris

    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else Path(".fuzz")
    corpus.mkdir(exist_ok=True)
    for folder in FOLDERS:
        for number, case in enumerate(load(folder)):
            (corpus / f"{folder.replace('/', '-')}-{number}").write_bytes(case.data)
    for number, message in enumerate(MESSAGES):
        (corpus / f"channel-{number}").write_bytes(message)
    options = [each for each in sys.argv[1:] if each.startswith("-") and each != "--"]
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(corpus), *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
