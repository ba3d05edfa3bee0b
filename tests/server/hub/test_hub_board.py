"""What the hub itself shows under /metrics: the server's start and its engine, whatever front ends come and go."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from yardmaster.server.hub.board import Board
from yardmaster.tests.server.conftest import ScriptedEngine


def test_the_start_and_the_engine_are_the_whole_servers() -> None:
    engine = ScriptedEngine(lambda submit: ())
    board = Board("model", engine, None, lambda: 2)

    def look(name: str) -> list[float]:
        families = text_string_to_metric_families(asyncio.run(board.scrape([])).decode())
        return [sample.value for family in families for sample in family.samples if sample.name == "yardmaster_" + name]

    (began,) = look("start_time_seconds")
    board.restarts.inc()
    board.bury(1)
    assert look("start_time_seconds") == [began]
    engine.ready = False
    assert look("engine_up") == [0]
    engine.ready = True
    assert look("engine_up") == [1]
    engine.dead = "rank 0 left"
    assert look("engine_up") == [0]
