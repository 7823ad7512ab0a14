"""The alert rules shipped for Prometheus do what they say, by Prometheus's own tools."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serve.alert_rules import AlertRules
from serve.alerts import AlertBook
from serve.exposition import HELP, PREFIX, fleet_text, service_text
from tests.outlooks import MODEL, ORIGIN, STEP, make_outlook, spike

RULES = Path(__file__).parent.parent / "serve" / "prometheus"
PROMTOOL = shutil.which("promtool")
LIVE = {"cpu_percent": {"day": {"coverage": 0.8, "quantile_loss": 0.1, "forecasts": 480}}}

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on the PATH: apt-get install prometheus"
)


def promtool(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *arguments], cwd=RULES, input=text, capture_output=True, text=True, timeout=60
    )


def exposed() -> str:
    outlook = make_outlook([spike(90.5)])
    alerts = AlertBook(AlertRules()).update(outlook)
    counters = {"ticks_accepted": ("Ticks taken in.", 5)}
    return fleet_text(outlook, AlertRules(), alerts) + service_text(
        float(ORIGIN * STEP), outlook, MODEL, LIVE, {"cpu_percent": (0.7, 0.9)}, counters
    )


def test_every_metric_in_the_rules_is_exposed() -> None:
    """A rule on a name that is nowhere never fires, and no tool says so."""
    for file in ("alerts.yml", "alerts_test.yml"):
        used = set(re.findall(rf"\b{PREFIX}(\w+)", (RULES / file).read_text()))
        assert used, file
        assert used - {"ticks_accepted_total"} <= set(HELP), file


@needs_promtool
def test_the_rules_are_valid_and_pass_their_tests() -> None:
    assert "4 rules found" in promtool("check", "rules", "alerts.yml").stdout
    result = promtool("test", "rules", "alerts_test.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("firing|clearing", "firing|pending"),
        ("> 900", "> 1800"),
        ("or (up", "and (up"),
        ("for: 10m", "for: 30m"),
        ('{bound="lowest"}', '{bound="highest"}'),
        ('{bound="highest"}', '{bound="lowest"}'),
        ("fleet_tft_live_coverage_ratio", 'fleet_tft_live_coverage_ratio{window="day"}'),
        (">= 50", ">= 40"),
        (">= 50", "> 50"),
        ("for: 1h", "for: 3h"),
        ("or absent(up", "and absent(up"),
        ("for: 5m", "for: 0m"),
        ("humanizePercentage", "humanize"),
    ],
)
def test_a_rule_that_is_wrong_fails_its_test(tmp_path: Path, was: str, becomes: str) -> None:
    rules = (RULES / "alerts.yml").read_text()
    assert was in rules
    (tmp_path / "alerts.yml").write_text(rules.replace(was, becomes))
    shutil.copy(RULES / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", str(tmp_path / "alerts_test.yml")).returncode == 1


@needs_promtool
def test_what_is_exposed_is_what_prometheus_takes_for_good_style() -> None:
    result = promtool("check", "metrics", text=exposed())
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    assert promtool("check", "metrics", text="no metric {\n").returncode != 0
