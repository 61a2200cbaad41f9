"""
What can go wrong in a measurement, each in one sentence for a person.

    BenchError
    ├── Absent        something that has to be installed is not there
    └── RunFailed     a server or the load client did not do what it had to
"""

from __future__ import annotations


class BenchError(Exception):
    """Anything that ends a measurement."""


class Absent(BenchError):
    """Something is not installed."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} is not there: {self.remedy}"


class RunFailed(BenchError):
    """A process did not do what it had to. `log` is the end of what it said."""

    def __init__(self, what: str, log: str = "") -> None:
        super().__init__(what, log)
        self.what = what
        self.log = log

    def __str__(self) -> str:
        return f"{self.what}\n{self.log}".rstrip()
