"""`yardmaster serve --keys-file` with the engine of plain Python: `fair_serve.py MODEL PORT KEYS_FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "engine"))
from fake_rank import build

from yardmaster.engine.config import EngineConfig
from yardmaster.server.front import serve
from yardmaster.server.http.config import HttpConfig

if __name__ == "__main__":
    model, port, keys_file = sys.argv[1:]
    http = HttpConfig(("fake",), port=int(port), keys_file=keys_file)
    sys.exit(serve(EngineConfig(model=model), http, (sys.executable, str(Path(sys.path[0]) / "fake_rank.py")), build))
