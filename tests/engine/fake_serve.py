"""`yardmaster serve` with the engine of plain Python: `fake_serve.py MODEL PORT TP DP`, alone or under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_rank import build

from yardmaster.engine.config import EngineConfig
from yardmaster.server.front import serve
from yardmaster.server.http.config import HttpConfig
from yardmaster.server.launch import World, layout

if __name__ == "__main__":
    model, port, tp, dp = sys.argv[1:]
    parallel = layout(int(tp), int(dp), None, World.of_environment())
    engine = EngineConfig(model=model, parallel=parallel)
    http = HttpConfig(("fake",), port=int(port))
    sys.exit(serve(engine, http, (sys.executable, str(Path(__file__).with_name("fake_rank.py"))), build))
