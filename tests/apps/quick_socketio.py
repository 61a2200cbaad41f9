"""The example with shorter times: a polling client that leaves waits for the end of its poll, 45 s by default."""

import importlib.util
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "examples" / "socketio" / "app.py"
spec = importlib.util.spec_from_file_location("socketio_example", PATH)
assert spec is not None
assert spec.loader is not None
example = sys.modules["socketio_example"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
example.server.eio.ping_interval = 2
example.server.eio.ping_timeout = 8  # a hundred at once, on a busy machine, take their time to answer
app = example.app
