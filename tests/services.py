"""A small service on a clock that stands still, and ticks to feed it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from serve.commands import open_service
from serve.service import Service
from serve.times import utc
from tests.builders import SCHEMA, tiny_forecaster
from tft.bundle import save_forecaster
from tft.schema import FeatureSchema

STEP = SCHEMA.step_seconds
START = 1_767_571_200  # 2026-01-05T00:00:00Z, a Monday


class Clock:
    """Shows what it was set to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def small_service(
    folder: Path, clock: Clock, rules: Path | None = None, models: Path | None = None
) -> Service:
    """Open the service of a run in a folder, made where it is missing."""
    if not (folder / "run").exists():
        save_forecaster(tiny_forecaster(), folder / "run" / "model")
    return open_service(folder / "run", folder / "state", rules, models, clock=clock)


def tick(server: str, number: int, **changes: Any) -> dict[str, Any]:
    """Return what a server reports `number` steps after `START`."""
    values = {"cpu_percent": 30.0 + number % 7, "load_average": 2.0, "temperature": 40.0}
    row = {
        "timestamp": utc(START + number * STEP),
        "server_name": server,
        "profile": "database",
        "values": values,
        "static": {"cores": 8},
    }
    return row | changes


def ticks(servers: Sequence[str], numbers: Iterable[int], **changes: Any) -> list[dict[str, Any]]:
    """Return what servers report, tick by tick."""
    return [tick(server, number, **changes) for number in numbers for server in servers]


def with_steps_of(seconds: int) -> FeatureSchema:
    """Return the tests' schema with another step."""
    return FeatureSchema.from_dict({**SCHEMA.to_dict(), "step_seconds": seconds})
