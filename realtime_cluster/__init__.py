"""
Whether the package `realtime` is ours. The command `realtime` begins in `__main__.py`, beside this file.

PyPI has another distribution whose package is called `realtime` as well. Installed beside ours it overwrites files, and
what is then imported is half of each. So this package stands outside of `realtime`, and looks where that is before
anything in it runs. It never imports `realtime` to find out, and nothing of it is imported here.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

OURS = "realtime-cluster"
OTHER = "realtime"
MARK = b'DISTRIBUTION = "realtime-cluster"'


def problem() -> str | None:
    """Return what is wrong with the package `realtime`, and how to mend it; None where it is ours."""
    spec = importlib.util.find_spec("realtime")
    if spec is None:
        return f"the package 'realtime' of {OURS} is not there. {_mend()}"
    if spec.origin is None:
        places = ", ".join(spec.submodule_search_locations or ())
        return f"the package 'realtime' of {OURS} has lost its __init__.py ({places}). {_mend()}"
    try:
        begin = Path(spec.origin).read_bytes()[:4096]
    except OSError as error:
        return f"the package 'realtime' cannot be read: {error}"
    if MARK not in begin:
        return f"the package 'realtime' ({spec.origin}) is not that of {OURS}: another one is in its place. {_mend()}"
    return None


def other_version() -> str | None:
    """Return the version of the other distribution that has a package `realtime`, or None where it is not installed."""
    try:
        return distribution(OTHER).version
    except PackageNotFoundError:
        return None


def _mend() -> str:
    version = other_version()
    steps = f"pip install --force-reinstall --no-deps {OURS}"
    if version is None:
        return f"Install it again: {steps}"
    return (
        f"The distribution '{OTHER}' {version}, which has a package of the same name, has overwritten it: both cannot "
        f"be in one environment. Mend it by: pip uninstall {OTHER}; {steps}"
    )
