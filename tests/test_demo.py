"""The live demo: its clock, its routes, and the whole of it in a real browser."""

import os
import re
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason="serving needs: pip install 'fleet-tft[serve]'")

from data.synthetic import FleetSpec
from data.synthetic.simulator import METRICS
from serve.api import create_app
from serve.demo import FastClock, check_model
from serve.demo_command import demo_command, has_desktop
from serve.demo_routes import DemoAnswer, demo_router
from serve.live_fleet import LiveFleet
from tests.asgi import Client
from tests.browser import needs_browser, open_browser, open_page
from tests.builders import SCHEMA, tiny_forecaster
from tests.services import START, Clock, small_service
from tft.bundle import save_forecaster
from tft.schema import FeatureSchema, Metric

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = dict(
    hours=48, num_ml_compute=0, num_database=1, num_web_api=2, num_conductor_mgmt=0,
    num_data_ingest=0, num_risk_analytics=0, num_generic=1,
)  # fmt: skip
OF_THE_FLEET = FeatureSchema(
    targets=tuple(Metric(name, 0.0, 100.0) for name in METRICS[:3]) + (Metric(METRICS[3], 0.0),),
    observed=tuple(Metric(name, 0.0) for name in METRICS[4:]),
    profiles=("database", "web_api"),
    server_buckets=8,
    context_length=24,
    min_context_length=6,
    prediction_horizon=12,
    days_before=1,
    quantiles=(0.1, 0.5, 0.9),
)


class Wall:
    """A monotonic clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_clock_runs_fast_but_never_past_what_is_allowed() -> None:
    wall = Wall()
    clock = FastClock(START, 150.0, wall)
    wall.now += 10
    assert clock() == START  # nothing is allowed yet
    clock.allow(START + 600)
    assert clock() == START  # and what was not allowed is not made up for
    wall.now += 2
    assert clock() == START + 300
    wall.now += 60
    assert clock() == START + 600
    clock.allow(START + 300)
    assert clock() == START + 600  # time never goes back
    clock.allow(START + 900)
    wall.now += 1
    assert clock() == START + 750


def test_waiting_ends_when_asked_to() -> None:
    stop = threading.Event()
    stop.set()
    clock = FastClock(START, 1.0, Wall())
    clock.wait(START + 600, stop)
    assert clock() < START + 600


def test_model_of_another_fleet_is_refused_by_name() -> None:
    check_model(OF_THE_FLEET, 300)
    with pytest.raises(ValueError, match="differ in cores, disk_percent, io_wait_percent"):
        check_model(SCHEMA, 3600)
    with pytest.raises(ValueError, match="the model ticks every 300 s"):
        check_model(OF_THE_FLEET, 60)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    fleet = LiveFleet(FleetSpec(**SMALL))
    service = small_service(tmp_path, Clock(START))
    return Client(create_app(service, routers=[demo_router(fleet, 2.0)]))


def test_scenario_is_told_and_switched(client: Client) -> None:
    path = "/api/v1/demo/scenario"
    told = DemoAnswer.model_validate_json(client.get(path).body)
    assert (told.scenario, told.target, told.speed) == ("healthy", "fleet", 150.0)
    assert "server:ppdb0001" in told.targets
    assert [each.name for each in told.scenarios] == [
        "healthy", "degrading", "critical", "cascade",
    ]  # fmt: skip
    answer = client.post(path, {"scenario": "cascade", "target": "profile:web_api"})
    assert answer.json()["scenario"] == "cascade"
    assert client.get(path).json()["target"] == "profile:web_api"


def test_what_there_is_not_is_a_problem(client: Client) -> None:
    path = "/api/v1/demo/scenario"
    assert client.post(path, {"scenario": "chaos"}).status == 422
    answer = client.post(path, {"scenario": "critical", "target": "server:nobody"})
    assert answer.status == 422
    assert "'server:nobody' is not of this fleet" in answer.detail
    assert client.get(path).json()["scenario"] == "healthy"


def test_page_has_its_bar_only_in_the_demo(client: Client, tmp_path: Path) -> None:
    assert b'<html lang="en" data-demo>' in client.get("/").body
    service = small_service(tmp_path / "other", Clock(START))
    plain = Client(create_app(service))
    assert b'<html lang="en">' in plain.get("/").body
    assert plain.get("/api/v1/demo/scenario").status == 404


@pytest.mark.parametrize(
    ("terminal", "display", "opened"), [(True, ":0", True), (True, "", False), (False, ":0", False)]
)
def test_browser_is_opened_for_a_person_at_a_desktop_only(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, display: str, opened: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert has_desktop() == opened


@pytest.mark.parametrize(
    ("flags", "desktop", "shown"),
    [(["--browser"], False, True), (["--no-browser"], True, False), ([], True, True),
     ([], False, False)],
)  # fmt: skip
def test_demo_command_opens_the_page_or_not(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], desktop: bool, shown: bool
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("serve.demo_command.has_desktop", lambda: desktop)
    monkeypatch.setattr("serve.demo.run_demo", lambda *_, show: asked.update(show=show))
    result = CliRunner().invoke(demo_command(lambda: Path("run")), flags)
    assert result.exit_code == 0, result.output
    assert (asked["show"] is webbrowser.open) == shown and (asked["show"] is None) == (not shown)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """Run the demo in a process of its own, in very fast motion; yields its address."""
    # Untrained weights whose forecast of memory follows its level, a little above.
    save_forecaster(tiny_forecaster(5, OF_THE_FLEET), tmp_path / "run" / "model")
    rules = tmp_path / "rules.toml"
    rules.write_text("nearest_minutes = 5\n")  # its forecasts are flat: what comes, comes at once
    code = (
        "from pathlib import Path; from data.synthetic import FleetSpec\n"
        "from serve.demo import run_demo\n"
        f"spec = FleetSpec(**{SMALL!r})\n"
        f"run_demo(lambda: Path({str(tmp_path / 'run')!r}), 0, 0.2, lambda line: "
        f"print(line, flush=True), Path({str(rules)!r}), spec, "
        "lambda address: print('shown:', address, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"shown: (\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError(f"the demo ended with {process.wait()}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@needs_browser
def test_person_sees_the_real_service_warn(demo: str) -> None:
    """All of it: simulated fleet, feed, state, forecasts, alerts, API, page."""
    with open_browser() as browser, open_page(browser) as watched:
        page = watched.page
        page.goto(demo)
        page.locator(".heat tbody tr td.cell").first.wait_for()
        page.get_by_role("link", name="Alerts").click()
        page.get_by_role("heading", name="active alert").wait_for()
        alert = page.locator("[data-alert=firing]", has_text="ppweb0001")
        assert alert.count() == 0
        page.get_by_label("Where").select_option("server:ppweb0001")
        page.get_by_role("button", name="critical").click()
        alert.first.wait_for()
        for route in ("#/servers/ppweb0001", "#/model", "#/what-if", "#/"):
            page.goto(f"{demo}/{route}")
            page.wait_for_selector("main h1")
        page.goto(f"{demo}/#/servers/ppweb0001")
        page.locator("[data-lags] canvas").wait_for()
        page.goto(f"{demo}/#/what-if")
        page.fill("[name='shift cpu_percent']", "20")
        page.get_by_role("button", name="Show").click()
        page.locator("[data-response] canvas").first.wait_for()
        assert watched.complaints == []
        assert watched.asked_of_others(demo) == []
