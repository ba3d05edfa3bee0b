"""The front end's bench runs as its lines say, with the processes of a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_all_measures_come_out_for_one_and_for_two_front_ends() -> None:
    command = [sys.executable, "-m", "yardmaster.bench.frontend", "--api-servers", "1", "2", "--streams", "3"]
    done = subprocess.run(
        [*command, "--seconds", "0.5", "--offer", "2000"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["api_servers"], row["measure"]) for row in rows] == [
        (count, measure) for count in (1, 2) for measure in ("requests", "requests", "paced", "rate")
    ]
    for row in rows:
        if row["measure"] == "requests":
            assert row["requests_per_s"] > 0
            assert row["latency_ms_p50"] <= row["latency_ms_p99"]
        else:
            assert row["tokens"] >= 3 * 2
            assert row["tokens_per_event"] >= 1
            assert 0 <= row["added_ms_p50"] <= row["added_ms_p99"]
