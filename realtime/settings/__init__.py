"""
Every option of the server, once.

`fields.py` is the frozen dataclass: a field is a type, a default and a sentence. `sources.py` fills it from the
command line, `REALTIME_*`, `realtime.toml` and the defaults, in this order. `relations.py` checks fields together.
`kinds.py`, `quantities.py` and
`addresses.py` say what each value may be. Nothing else in this project reads the environment.
"""

from realtime.settings.addresses import without_password
from realtime.settings.fields import GROUPS, Option, Settings, options
from realtime.settings.sources import CONFIG_ENV, misspelt, resolve, runtime_directory

__all__ = [
    "CONFIG_ENV",
    "GROUPS",
    "Option",
    "Settings",
    "misspelt",
    "options",
    "resolve",
    "runtime_directory",
    "without_password",
]
