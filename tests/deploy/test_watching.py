"""The dashboard and the alerts ask for what a server really shows, and show everything that it tells."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from yardmaster.engine.messages import EngineStats, RankReport
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.hub.board import Board
from yardmaster.server.metrics import Metrics
from yardmaster.tests.server.conftest import ScriptedEngine

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "yardmaster.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(f"{panel['title']} {target['refId']}", target) for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in ALERTS for rule in group["rules"]]
EXPRESSIONS = [(name, target["expr"]) for name, target in TARGETS] + [(rule["alert"], rule["expr"]) for rule in RULES]
SCRAPED = {"instance", "job"}  # labels that Prometheus adds
COLUMNS = 24


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every sample that a server of several front ends and a keys file can show, by its name."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("keys:\n  - name: alice\n    key: sk-alice-0001\n")
    metrics = Metrics("model", "0")
    metrics.http_requests.labels("/v1/models", "GET", "200").inc()
    metrics.harmony_repairs.labels("kind").inc()
    engine = ScriptedEngine(lambda submit: ())
    board = Board("model", engine, Keyring(keys), lambda: 2)
    counts = dict.fromkeys(("running", "waiting", "preemptions", "steps", "prompt_tokens", "generation_tokens"), 1)
    for hear_stats in engine.stats:
        hear_stats(0, EngineStats(kv_usage=0.5, **counts))
    for hear_report in engine.reports:
        hear_report(RankReport(rank=0, layer_imbalance=[1.0, 2.0]))
    found: dict[str, set[str]] = {}
    for scrape in (metrics.render(), asyncio.run(board.scrape([]))):
        for family in text_string_to_metric_families(scrape.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if not name.endswith("_created")}


def nodes(expression: str, *kinds: type) -> list[Any]:
    """The parts of these kinds of an expression, the outermost first. Grafana's interval stands for any."""
    found: list[Any] = []
    promql.walk(promql.parse(expression.replace("$__rate_interval", "1m")), lambda node: found.append(node))
    return [node for node in found if isinstance(node, kinds or object)]


def names(expression: str) -> set[str]:
    return {selector.name for selector in nodes(expression, promql.VectorSelector)}


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_an_expression_asks_for_what_there_is(told: dict[str, set[str]], name: str, expression: str) -> None:
    assert names(expression) <= told.keys() | {"up"}  # Prometheus' own
    for selector in nodes(expression, promql.VectorSelector):
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= told.get(selector.name, set()) | SCRAPED
    for call in nodes(expression, promql.Call):
        if call.func.name in ("rate", "increase"):
            assert call.args[0].vector_selector.name.endswith(("_total", "_bucket"))  # of a gauge they mean nothing
    for sums in nodes(expression, promql.AggregateExpr):
        under = set.union(*(told[selected] for selected in names(sums.expr.prettify())))
        assert set(sums.modifier.labels if sums.modifier else ()) <= under | SCRAPED


@pytest.mark.parametrize(("name", "target"), TARGETS, ids=[name for name, _ in TARGETS])
def test_a_legend_names_labels_that_the_result_has(told: dict[str, set[str]], name: str, target: Any) -> None:
    wanted = {part.split("}}")[0].strip() for part in target["legendFormat"].split("{{")[1:]}
    outer = nodes(target["expr"])[0]
    while isinstance(outer, promql.BinaryExpr | promql.ParenExpr):
        outer = outer.lhs if isinstance(outer, promql.BinaryExpr) else outer.expr
    if isinstance(outer, promql.VectorSelector):
        assert wanted <= told[outer.name]
    elif isinstance(outer, promql.AggregateExpr):
        assert wanted == set(outer.modifier.labels if outer.modifier else ())
    else:
        assert wanted == set()


def test_the_dashboard_shows_everything_that_is_told(told: dict[str, set[str]]) -> None:
    asked = set.union(*(names(target["expr"]) for _, target in TARGETS))
    of_histograms = {name for name in told if name.endswith(("_sum", "_count"))}
    assert told.keys() - of_histograms == asked


def test_every_selector_of_the_dashboard_is_of_the_chosen_instances() -> None:
    for name, target in TARGETS:
        for selector in nodes(target["expr"], promql.VectorSelector):
            assert ("instance", "$instance") in [(m.name, m.value) for m in selector.matchers.matchers], name
    assert {variable["name"] for variable in BOARD["templating"]["list"]} == {"datasource", "instance"}
    assert {target["datasource"]["uid"] for _, target in TARGETS} == {"${datasource}"}


def test_panels_lie_side_by_side() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])

    def cells(panel: Any) -> Iterator[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS
        return itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))

    taken = [cell for panel in BOARD["panels"] for cell in cells(panel)]
    assert len(taken) == len(set(taken))
    assert all(panel["description"] for panel in PANELS)


def test_alerts_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Prometheus' promtool")
def test_prometheus_takes_them() -> None:
    command = ["promtool", "check", "config", "--lint-fatal", str(DEPLOY / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
