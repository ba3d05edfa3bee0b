"""The dashboard and the alerts ask for what a server really shows, and show everything that it tells."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from yardmaster.engine.health import SILENCE_SECONDS
from yardmaster.engine.messages import EngineStats, RankReport
from yardmaster.server.fair.key_file import INTERNAL
from yardmaster.server.fair.keyring import Keyring
from yardmaster.server.http.middleware import OPEN_PATHS
from yardmaster.server.hub.board import Board
from yardmaster.server.metrics import RANK_SILENCE, Metrics
from yardmaster.tests.server.conftest import ScriptedEngine

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "yardmaster.json").read_text())
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
SCENES_FILE = Path(__file__).with_name("alerts.yml")
SCENES = yaml.safe_load(SCENES_FILE.read_text())["tests"]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
TARGETS = [(f"{panel['title']} {target['refId']}", target) for panel in PANELS for target in panel["targets"]]
RULES = [rule for group in ALERTS for rule in group["rules"]]
EXPRESSIONS = [(name, target["expr"]) for name, target in TARGETS] + [(rule["alert"], rule["expr"]) for rule in RULES]
SCRAPED = {"instance", "job"}  # labels that Prometheus adds
KNOWN = {  # values that labels may be compared with
    "job": {config["job_name"] for config in PROMETHEUS["scrape_configs"]},
    "handler": OPEN_PATHS,
    "key": {INTERNAL},
    "status": {"5.."},
}
LASTS = {"yardmaster_rank_up": SILENCE_SECONDS - RANK_SILENCE}  # seconds of a trouble, at most: the server ends with it
MOMENTS = {"changes", "increase", "min_over_time"}  # true of what was once, as long as the range has it
UNITS = {"s": 1, "m": 60, "h": 3600}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")
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


def seconds(duration: str) -> int:
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


def held(expression: str) -> float:
    """For how many seconds one trouble makes a rule's condition true, at most."""
    ranges = {call.args[0].vector_selector.name: call for call in nodes(expression, promql.Call) if ranged(call)}
    bounds = [float("inf")]
    for name in names(expression):
        lasts, call = LASTS.get(name, float("inf")), ranges.get(name)
        if call is not None and call.func.name in MOMENTS:
            lasts = call.args[0].range.total_seconds()
        elif call is not None:
            lasts -= call.args[0].range.total_seconds()
        bounds.append(lasts)
    return min(bounds)


def ranged(call: Any) -> bool:
    return any(isinstance(argument, promql.MatrixSelector) for argument in call.args)


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_an_expression_asks_for_what_there_is(told: dict[str, set[str]], name: str, expression: str) -> None:
    assert names(expression) <= told.keys() | {"up"}  # Prometheus' own
    for selector in nodes(expression, promql.VectorSelector):
        for matcher in selector.matchers.matchers:
            assert matcher.name in told.get(selector.name, set()) | SCRAPED
            assert matcher.value == "$instance" or set(matcher.value.split("|")) <= KNOWN[matcher.name]
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


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_labels_that_its_result_has(told: dict[str, set[str]], rule: Any) -> None:
    wanted = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    sums = nodes(rule["expr"], promql.AggregateExpr)
    if sums:
        assert wanted <= set.intersection(*(set(each.modifier.labels) for each in sums)) - {"le"}
    else:
        assert wanted <= set.union(SCRAPED, *(told.get(name, set()) for name in names(rule["expr"])))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_condition_can_hold_for_as_long_as_its_alert_waits(rule: Any) -> None:
    """It is seen at the next scrape, and looked at again at the evaluation after the wait."""
    late = sum(seconds(PROMETHEUS["global"][f"{what}_interval"]) for what in ("scrape", "evaluation"))
    assert seconds(rule.get("for", "0s")) + late <= held(rule["expr"])


@pytest.mark.parametrize(
    ("expression", "bound"),
    [
        ("yardmaster_rank_up == 0", 25),
        ("min_over_time(yardmaster_rank_up[1m]) == 0", 60),
        ("max_over_time(yardmaster_rank_up[10s]) == 0", 15),
        ("changes(yardmaster_start_time_seconds[15m]) > 0", 900),
        ("rate(yardmaster_num_preemptions_total[5m]) > 1", float("inf")),
        ("max_over_time(yardmaster_engine_up[5m]) == 0", float("inf")),
    ],
)
def test_how_long_a_condition_holds(expression: str, bound: float) -> None:
    assert held(expression) == bound


def test_every_alert_has_a_scene_of_what_servers_tell(told: dict[str, set[str]]) -> None:
    ends = [end for scene in SCENES for end in scene["promql_expr_test"]]
    firing = {sample["labels"] for end in ends for sample in end.get("exp_samples", ())}
    assert {re.search('alertname="([^"]+)"', labels)[1] for labels in firing} == {rule["alert"] for rule in RULES}
    for series in (series["series"] for scene in SCENES for series in scene["input_series"]):
        selector = promql.parse(series)
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= told[selector.name] | SCRAPED if selector.name != "up" else labels == SCRAPED


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--lint-fatal", str(DEPLOY / "prometheus" / "prometheus.yml")),
        ("test", "rules", str(SCENES_FILE)),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_takes_them(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
