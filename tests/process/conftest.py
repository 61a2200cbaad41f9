"""What each test with real processes leaves behind is closed here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.streams import close_opened


@pytest.fixture(autouse=True)
def _closed_answers() -> Iterator[None]:
    """Close the connections of `ask` and `Stream`, in whichever file they were opened."""
    yield
    close_opened()
