"""
Which connections of a source are meant for a target.

Pure; the primary writes it, and the source's server follows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALL: Final = "all"
HOME: Final = "home"
COUNT: Final = "count"
REST: Final = "rest"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Which connections go to a target.

    Attributes:
        name: ALL of them, to the successor in the same slot; those whose key is at HOME in the target's slot; a COUNT
            of any; or, when the source drains, those at home there and its share of the REST.
        count: how many, where the plan is COUNT.
    """

    name: str
    count: int = 0
