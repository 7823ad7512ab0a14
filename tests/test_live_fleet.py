"""The live fleet: usual life like the built-in fleet's, and trouble that really shows."""

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from data.synthetic import FleetSpec, generate
from data.synthetic.profiles import PROFILES
from data.synthetic.simulator import METRICS
from serve.live_fleet import SCENARIOS, LiveFleet

SPEC = FleetSpec(
    seed=7, num_ml_compute=1, num_database=2, num_web_api=2, num_conductor_mgmt=1,
    num_data_ingest=0, num_risk_analytics=1, num_generic=1,
)  # fmt: skip
HOUR = 12
MORNING = 8 * HOUR
CPU, MEMORY, DISK = (METRICS.index(name) for name in METRICS[:3])
Values = npt.NDArray[np.float64]


def skip(fleet: LiveFleet, ticks: int) -> None:
    for _ in range(ticks):
        fleet.step()


def watch(fleet: LiveFleet, ticks: int) -> Values:
    """Return what is reported, [ticks, servers, metrics], NaN where nothing is."""
    names = {server.name: place for place, server in enumerate(fleet.servers)}
    seen = np.full((ticks, len(names), len(METRICS)), np.nan)
    for tick in range(ticks):
        for row in fleet.step():
            seen[tick, names[row["server_name"]]] = list(row["values"].values())
    return seen


def bent(scenario: str, target: str = "fleet", hours: int = 6) -> tuple[LiveFleet, Values]:
    """Return a fleet under a scenario since the morning, and how far its metrics are off usual."""
    usual, fleet = LiveFleet(SPEC), LiveFleet(SPEC)
    skip(usual, MORNING)
    skip(fleet, MORNING)
    fleet.choose(scenario, target)
    return fleet, watch(fleet, hours * HOUR) - watch(usual, hours * HOUR)


def places(fleet: LiveFleet, holds: Callable[[str], bool]) -> list[int]:
    return [s for s, server in enumerate(fleet.servers) if holds(server.profile.name)]


def test_usual_life_is_the_built_in_fleet() -> None:
    """The demo's history is what the model was trained on, row for row."""
    spec = FleetSpec(hours=5, num_web_api=1, num_generic=0)
    fleet = LiveFleet(spec)
    rows = [row for _ in range(spec.num_ticks) for row in fleet.step()]
    table, _ = generate(spec)
    told = {(row["timestamp"], row["server_name"]): list(row["values"].values()) for row in rows}
    assert len(told) == len(rows) == len(table)
    for time, name, values in zip(
        table["timestamp"], table["server_name"], table[list(METRICS)].to_numpy(), strict=True
    ):
        assert told[int(time.timestamp()), name] == pytest.approx(values.tolist(), abs=0.005)


def test_rows_are_what_the_feed_takes() -> None:
    fleet = LiveFleet(SPEC)
    row = json.loads(json.dumps(fleet.step()))[0]
    assert set(row) == {"timestamp", "server_name", "profile", "values"}
    assert row["timestamp"] == int(SPEC.start.timestamp())
    assert tuple(row["values"]) == METRICS


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "healthy"])
def test_same_seed_same_trouble_and_another_seed_another(scenario: str) -> None:
    def run(seed: int) -> Values:
        fleet = LiveFleet(FleetSpec(seed=seed, num_web_api=1))
        fleet.choose(scenario)
        return watch(fleet, 2 * HOUR)

    first, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(first, again)
    assert np.nanmax(np.abs(first - other)) > 1.0


@pytest.mark.parametrize(
    ("scenario", "least"),
    [
        ("degrading", {MEMORY: 10, DISK: 10}),
        ("critical", {CPU: 30, MEMORY: 15, DISK: 10}),
        ("cascade", {CPU: 20, MEMORY: 8}),
    ],
)
def test_scenario_moves_the_metrics_of_who_it_hits(scenario: str, least: dict[int, int]) -> None:
    _, off = bent(scenario)
    last = np.nanmax(np.nanmean(off[-HOUR:], axis=0), axis=0)  # of the server hit hardest
    for metric, points in least.items():
        assert last[metric] > points, METRICS[metric]


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "healthy"])
def test_trouble_comes_gradually(scenario: str) -> None:
    """No metric of the first two hours jumps in one tick by more than usual life's own jumps."""
    _, off = bent(scenario, hours=2)
    jumps = np.abs(np.diff(np.concatenate([np.zeros_like(off[:1]), off]), axis=0))
    for metric, most in ((CPU, 15.0), (MEMORY, 4.0), (DISK, 1.5)):
        assert np.nanmax(jumps[..., metric]) < most, METRICS[metric]


def test_only_the_target_is_touched() -> None:
    fleet, off = bent("critical", "profile:database")
    hit = places(fleet, lambda profile: profile == "database")
    spared = places(fleet, lambda profile: profile != "database")
    assert np.nanmax(np.abs(off[:, spared])) == 0.0
    assert np.nanmean(off[-HOUR:, hit], axis=(0, 1))[CPU] > 10

    name = fleet.servers[spared[0]].name
    _, off = bent("degrading", f"server:{name}")
    assert np.nanmax(np.abs(off[:, spared[0]])) > 5
    assert np.nanmax(np.abs(np.delete(off, spared[0], axis=1))) == 0.0


def test_cascade_goes_from_one_to_who_depends_on_it() -> None:
    fleet, off = bent("cascade", "profile:web_api", hours=8)
    # The first tick at which each server's CPU is five points off.
    begins = [
        int(np.argmax(over)) if (over := np.nan_to_num(off[:, s, CPU]) > 5).any() else 10**6
        for s in range(len(fleet.servers))
    ]
    web = sorted(begins[s] for s in places(fleet, lambda p: p == "web_api"))
    database = sorted(begins[s] for s in places(fleet, lambda p: p == "database"))
    others = [begins[s] for s in places(fleet, lambda p: p in PROFILES["database"].dependents)]
    assert web[0] < web[1] < database[0] < database[1] < 8 * HOUR
    assert database[0] < min(b for b in others if b not in web)
    generic = places(fleet, lambda p: p == "generic")
    assert np.nanmax(np.abs(off[:, generic])) == 0.0  # nothing it depends on was hit


def test_healthy_heals() -> None:
    usual, fleet = LiveFleet(SPEC), LiveFleet(SPEC)
    skip(usual, MORNING + 3 * HOUR)
    skip(fleet, MORNING)
    fleet.choose("degrading")
    sick = watch(fleet, 3 * HOUR)
    fleet.choose("healthy")
    skip(usual, 6 * HOUR)
    skip(fleet, 6 * HOUR)
    off = watch(fleet, HOUR) - watch(usual, HOUR)
    assert np.nanmax(sick[..., MEMORY]) > 70
    assert np.nanmedian(np.abs(off[..., MEMORY])) < 2.0
    assert np.nanmedian(np.abs(off[..., DISK])) < 1.0


def test_bounds_hold_in_a_day_of_the_worst() -> None:
    fleet = LiveFleet(SPEC)
    fleet.choose("critical")
    seen = watch(fleet, 24 * HOUR)
    told = seen[~np.isnan(seen[..., 0])]
    assert np.isfinite(told).all()
    assert (told >= 0).all()
    percentages = [m for m, name in enumerate(METRICS) if name.endswith("percent")]
    assert (told[:, percentages] <= 100).all()
    assert np.isnan(seen[..., 0]).any()  # servers that run out of memory restart, and say nothing


def test_what_is_not_there_is_refused_by_name() -> None:
    fleet = LiveFleet(SPEC)
    with pytest.raises(ValueError, match="'chaos' is none of healthy, degrading"):
        fleet.choose("chaos")
    with pytest.raises(ValueError, match="'server:nobody' is not of this fleet"):
        fleet.choose("critical", "server:nobody")
    assert fleet.chosen.scenario == "healthy"
