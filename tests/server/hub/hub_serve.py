"""`yardmaster serve --api-servers N` with the engine of plain Python.

`hub_serve.py MODEL PORT N [KEYS|- [DIR|- [SILENT]]]`
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "engine"))
import fake_rank

from yardmaster.engine.config import EngineConfig
from yardmaster.server.batch.config import BatchConfig
from yardmaster.server.front import serve
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.hub import hub

if __name__ == "__main__":
    model, port, servers, keys_file, directory, silent, *_ = [*sys.argv[1:], "-", "-", "-"]
    if silent != "-":
        hub.SILENT_SECONDS = int(silent)
    http = HttpConfig(
        ("fake",),
        port=int(port),
        api_servers=int(servers),
        keys_file=None if keys_file == "-" else keys_file,
        batch=None if directory == "-" else BatchConfig(directory, poll=0.05, retry=0.1, max_running=4),
    )
    sys.exit(serve(EngineConfig(model=model), http, (sys.executable, fake_rank.__file__), fake_rank.build))
