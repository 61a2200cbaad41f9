"""
The errors of `sticky`, in one tree.

    StickyError
    ├── SettingsError      a setting cannot be used: which, and what would do
    ├── NoLiveSlot         a key was to be given a slot while no slot is live
    ├── NotAWorker         this process was not started by a primary
    └── OutOfTurn          a worker sends a message that is illegal after those before it

What a peer sends wrongly is no exception: the parsers answer with a `Refusal`, which is a value. An exception holds
facts; `__str__` makes the sentence.
"""

from __future__ import annotations


class StickyError(Exception):
    """Any error of this package that is not a bug."""


class SettingsError(StickyError, ValueError):
    """A setting has a value that cannot be used."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class NoLiveSlot(StickyError, LookupError):
    """No worker can be chosen. The caller waits for one, or answers 503."""

    def __str__(self) -> str:
        return "no slot is live"


class NotAWorker(StickyError, RuntimeError):
    """`Worker.connect` was called in a process that no primary started."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"not started by a primary: {self.problem}"


class OutOfTurn(StickyError):
    """A worker's message can be read, and is illegal after those before it. The worker is broken, and is killed."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem
