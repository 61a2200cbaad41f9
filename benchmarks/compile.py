"""
Compiles the two programs in C, the load client and the floor, where a compiler is found.

Runs in the bench's process. The programs are kept under `build/bench/`, which git ignores, by the hash of their source
and of the command: a changed source is compiled anew, an unchanged one is not. Without a compiler nothing can be
measured, and that is said with what to install.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.errors import Absent, RunFailed

NATIVE: Final = Path(__file__).parent / "native"
CACHE: Final = Path(__file__).resolve().parents[1] / "build" / "bench"
FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def compiler() -> str:
    """
    Return the path of a C compiler.

    Raises:
        Absent: there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return path
    raise Absent("a C compiler", "the load client and the floor are C (Debian, Ubuntu: apt install gcc libc6-dev)")


@functools.cache
def zlib_flags() -> tuple[str, ...]:
    """
    Return what the load client is compiled with to inflate messages.

    Raises:
        Absent: there is no compiler, or no zlib for it.
    """
    probe = [compiler(), "-x", "c", "-", "-o", os.devnull, "-lz"]
    text = "#include <zlib.h>\nint main(void) { return zlibVersion() == 0; }\n"
    if subprocess.run(probe, input=text, capture_output=True, text=True, check=False).returncode:
        raise Absent("zlib.h", "the load client inflates with it (Debian, Ubuntu: apt install zlib1g-dev)")
    return ("-DWITH_ZLIB", "-lz")


def _flags_for(name: str) -> tuple[str, ...]:
    """Return what is said behind the source; without zlib the load client does all else."""
    if name == "load":
        with contextlib.suppress(Absent):
            return ("-lm", *zlib_flags())
    return ("-lm",)


def program(name: str) -> Path:
    """
    Return the executable of `native/NAME.c`, compiled if need be.

    Raises:
        Absent: there is no compiler.
        RunFailed: it does not compile.
    """
    source = NATIVE / f"{name}.c"
    text = b"".join(each.read_bytes() for each in (source, *sorted(NATIVE.glob("*.h"))))
    flags = _flags_for(name)
    made = CACHE / f"{name}-{hashlib.sha256(text + ' '.join(FLAGS + flags).encode()).hexdigest()[:16]}"
    if made.exists():
        return made
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = made.with_suffix(f".{os.getpid()}")  # moved into place whole: two benches may compile at once
    done = subprocess.run(
        [compiler(), *FLAGS, "-o", str(fresh), str(source), *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunFailed(f"{source.name} does not compile", done.stderr)
    fresh.rename(made)
    return made
