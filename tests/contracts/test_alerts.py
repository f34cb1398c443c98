"""Every alert has its runbook, reads metrics that exist, and fires when it should and only then."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import promql_parser
import pytest
import yaml

from stillhouse.telemetry import names
from tests.contracts.promql import Evaluator, Labels, metric_names
from tests.contracts.recording import STEP_S, healthy, record
from tests.contracts.scenarios import SCENARIOS, Scenario

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOY / "alerts" / "stillhouse.rules.yml").read_text())["groups"]
    for rule in group["rules"]
}
KNOWN = {value for name, value in vars(names).items() if name.isupper() and str(value).startswith("stillhouse_")}
HEALTHY_MINUTES = 300


def held_s(rule: dict[str, str]) -> float:
    return promql_parser.parse_duration(rule["for"]).total_seconds() if "for" in rule else 0.0


@cache
def samples(scenario: Scenario | None) -> dict[Labels, list[tuple[float, float]]]:
    if scenario is None:
        return record(healthy, HEALTHY_MINUTES)
    return record(scenario.live, max(scenario.quiet + scenario.fires))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    runbooks = {path.stem: path for path in (DEPLOY / "runbooks").glob("*.md")}
    assert runbooks.keys() == RULES.keys()
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook"] == runbooks[name].relative_to(DEPLOY.parent).as_posix()
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_is_tried() -> None:
    assert {scenario.alert for scenario in SCENARIOS} == RULES.keys()


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_reads_metrics_that_exist(alert) -> None:
    used = metric_names(RULES[alert]["expr"])
    assert used
    assert used <= KNOWN


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_an_alert_fires_when_it_should_and_not_before(scenario) -> None:
    rule, evaluator = RULES[scenario.alert], Evaluator(samples(scenario))
    fired = {
        minute: evaluator.firing(rule["expr"], held_s(rule), minute * STEP_S, STEP_S)
        for minute in scenario.quiet + scenario.fires
    }
    expected = {tuple(sorted(scenario.labels.items()))}
    assert fired == {minute: expected if minute in scenario.fires else set() for minute in fired}


@pytest.mark.parametrize("alert", RULES)
def test_nothing_fires_on_a_good_day(alert) -> None:
    rule, evaluator = RULES[alert], Evaluator(samples(None))
    for minute in range(0, HEALTHY_MINUTES + 1, 30):
        assert not evaluator.firing(rule["expr"], held_s(rule), minute * STEP_S, STEP_S), minute


def test_promtool_says_the_same(tmp_path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (it comes with Debian's package `prometheus`)")
    rules = DEPLOY / "alerts" / "stillhouse.rules.yml"
    tests = [tool_test(scenario) for scenario in SCENARIOS]
    quiet = [
        {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
        for alert in RULES
        for minute in range(0, HEALTHY_MINUTES + 1, 30)
    ]
    tests.append({"interval": "1m", "input_series": input_series(None, KNOWN), "alert_rule_test": quiet})
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run([promtool, "test", "rules", str(tmp_path / "tests.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def tool_test(scenario: Scenario) -> dict[str, object]:
    """One scenario as promtool reads it."""
    rule = RULES[scenario.alert]
    said = dict(rule["annotations"])
    for label, value in scenario.labels.items():
        said = {name: text.replace(f"{{{{ $labels.{label} }}}}", value) for name, text in said.items()}
    alert = {"exp_labels": scenario.labels | rule["labels"], "exp_annotations": said}
    checks = [
        {
            "eval_time": f"{minute}m",
            "alertname": scenario.alert,
            "exp_alerts": [alert] if minute in scenario.fires else [],
        }
        for minute in scenario.quiet + scenario.fires
    ]
    series = input_series(scenario, metric_names(rule["expr"]))
    return {"name": str(scenario), "interval": "1m", "input_series": series, "alert_rule_test": checks}


def input_series(scenario: Scenario | None, used: set[str]) -> list[dict[str, str]]:
    """The recorded samples in promtool's notation, `_` where there is none."""
    found = []
    for labels, values in samples(scenario).items():
        named = dict(labels)
        name = named.pop("__name__")
        if name in used:
            by_minute = {int(at // STEP_S): value for at, value in values}
            notation = " ".join(f"{by_minute[i]:g}" if i in by_minute else "_" for i in range(max(by_minute) + 1))
            inner = ",".join(f'{label}="{value}"' for label, value in named.items())
            found.append({"series": f"{name}{{{inner}}}", "values": notation})
    return found
