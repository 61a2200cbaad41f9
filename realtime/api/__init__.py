"""
The API for other programs.

`server.py` speaks HTTP, `methods.py` says what each method does, `messages.py` how requests and results look, `tail.py`
follows a room, `openapi.py` describes it all.
"""

from realtime.api.server import PREFIX, Api

__all__ = ["PREFIX", "Api"]
