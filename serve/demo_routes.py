"""What the live demo adds to the service's API: which scenario runs, and the page that shows it."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from serve.api import DASHBOARD
from serve.live_fleet import SCENARIOS, Chosen, LiveFleet
from serve.problems import ProblemError
from serve.schemas import Strict, Time

PLAIN, WITH_BAR = '<html lang="en">', '<html lang="en" data-demo>'
ScenarioName = Literal["healthy", "degrading", "critical", "cascade"]


class ScenarioChoice(Strict):
    """What is to happen to the simulated fleet."""

    scenario: ScenarioName
    target: str = Field("fleet", description="fleet, profile:NAME or server:NAME")


class ScenarioText(Strict):
    """A scenario there is."""

    name: ScenarioName
    what: str


class DemoAnswer(Strict):
    """What happens to the simulated fleet, and what could."""

    scenario: ScenarioName
    target: str
    since: Time
    speed: float = Field(description="Simulated seconds in a second")
    tick_seconds: float = Field(description="Seconds from one simulated tick to the next")
    scenarios: list[ScenarioText]
    targets: list[str]


def demo_router(fleet: LiveFleet, tick_seconds: float) -> APIRouter:
    """Return the operations of the demo; its page stands before the service's own.

    Args:
        fleet: whose scenario is told and switched.
        tick_seconds: wall-clock time of a simulated tick.
    """
    router = APIRouter()

    def told(chosen: Chosen) -> DemoAnswer:
        return DemoAnswer(
            scenario=chosen.scenario,  # type: ignore[arg-type]  # a name of SCENARIOS
            target=chosen.target,
            since=datetime.fromtimestamp(chosen.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            speed=fleet.spec.step_seconds / tick_seconds,
            tick_seconds=tick_seconds,
            scenarios=[
                ScenarioText(name=name, what=each.what)  # type: ignore[arg-type]
                for name, each in SCENARIOS.items()
            ],
            targets=list(fleet.targets),
        )

    @router.get("/api/v1/demo/scenario")
    def demo_scenario() -> DemoAnswer:
        """Return which scenario runs, and what could be chosen."""
        return told(fleet.chosen)

    @router.post("/api/v1/demo/scenario")
    def choose_demo_scenario(choice: ScenarioChoice) -> DemoAnswer:
        """Switch the simulated fleet to a scenario."""
        try:
            return told(fleet.choose(choice.scenario, choice.target))
        except ValueError as error:
            raise ProblemError(422, str(error)) from error

    @router.get("/", include_in_schema=False)
    def page() -> Response:
        """Return the dashboard with its scenario bar switched on."""
        text = (DASHBOARD / "index.html").read_text(encoding="utf-8")
        return Response(text.replace(PLAIN, WITH_BAR, 1), media_type="text/html")

    return router
