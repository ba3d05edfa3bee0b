"""schemathesis over /openapi.json of the whole server: whatever it makes up, no answer is a 5xx, or malformed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("schemathesis")

HOOKS = Path(__file__).parent
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "use_after_free", "error_is_worded"),
)


def sweep(house: Any, folder: Path, phases: str, examples: int) -> int:
    """How many cases were sent. Fails, with what schemathesis says, on any bad answer."""
    key = house.headers("ops")["authorization"]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{house.url}/openapi.json"),
        *("--phases", phases, "--mode", "all", "--max-examples", str(examples), "--checks", ",".join(CHECKS)),
        *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all", "--warnings", "off"),
        *("--request-timeout", "60", "--report", "json", "--report-json-path", str(folder / "report.json")),
        *("--header", f"authorization: {key}"),
    ]
    surroundings = os.environ | {"SCHEMATHESIS_HOOKS": "schema_hooks", "PYTHONPATH": str(HOOKS), "HOSTILE_KEY": key}
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    assert report["operations"]["tested"] == report["operations"]["total"] >= 32
    assert report["complete"]
    assert (report["failures"], report["errors"]) == ([], [])
    cases: int = report["test_cases"]["generated"]
    print(f"{cases} cases")
    return cases


def test_some_cases_to_every_route(harmony: Any, open_house: Callable[..., Any], tmp_path: Path) -> None:
    assert sweep(open_house(harmony), tmp_path, "fuzzing", 2) >= 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_cases(harmony: Any, open_house: Callable[..., Any], tmp_path: Path) -> None:
    """Cases at the bounds of every field, random ones, and chains of calls: what one answered is asked about next."""
    house = open_house(harmony)
    assert sweep(house, tmp_path, "examples,coverage,fuzzing,stateful", 240) >= 10_000
    with house.http() as http:
        assert http.post("/v1/completions", json={"prompt": "a"}).status_code == 200
