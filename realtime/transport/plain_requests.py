"""
Which bytes need no look at each request: whole requests without bodies, none of which can name a session in its query.

Pure. A connection whose requests all have one client, and no id that could lead to another worker, is read by its
parser alone. That saves the search for the border between two requests, which is done in Python (sticky/worker/
requests.py). Whatever is unusual in any way is looked at from then on.
"""

from __future__ import annotations

import re
from typing import Final

# A body (RFC 9112, section 6), an upgrade, an id, or a target that may hide one. No name of a field has a space.
_UNUSUAL: Final = re.compile(
    rb"sid=|content-length|transfer-encoding|upgrade|^[^ :\r\n]+ [^ \r\n]*[%#]", re.IGNORECASE | re.MULTILINE
)


def are_plain(data: bytes) -> bool:
    """
    Say whether bytes, which begin where a request does, are whole requests without bodies and without `sid=`.

    What comes after such bytes begins a request as well.
    """
    return data.startswith((b"GET ", b"HEAD ")) and data.endswith(b"\r\n\r\n") and _UNUSUAL.search(data) is None
