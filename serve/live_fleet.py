"""The synthetic fleet going on tick by tick, with trouble that can be switched on while it runs.

A scenario never writes a metric. It bends what the simulator keeps hidden - leaks, disks, incidents
- and the metrics follow in their own time, coupled as ever: memory that runs out makes a server
swap, swapping costs CPU, a full memory ends in a restart.

S servers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from data.synthetic import FleetSpec
from data.synthetic.plan import KINDS, stream
from data.synthetic.profiles import PROFILES
from data.synthetic.simulator import METRICS, Course

FLEET, PROFILE_PREFIX, SERVER_PREFIX = "fleet", "profile:", "server:"
SPREAD_HOURS = 0.25  # from one server of a cascade to the next; real ones take minutes
_OVERLOAD, _STORAGE = KINDS.index("overload"), KINDS.index("slow_storage")
_SCENARIOS_STREAM = 4  # purpose of a random stream; `data.synthetic.plan` has the ones before
_RECOVERY_HOURS = 0.5  # what a scenario has done wears off at this pace
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Scenario:
    """What happens to a server from its onset on; rates in percentage points an hour."""

    what: str
    """In words, for a person who chooses."""
    leak: float = 0.0
    """Memory lost, per hour."""
    fill: float = 0.0
    """Disk filled, per hour."""
    overload: float = 0.0
    """Strength of the incident headed for: one unit is about 42 points of CPU."""
    storage: float = 0.0
    """The same of slow storage: one unit is about 26 points of I/O wait."""
    ramp_hours: float = 1.0
    """How long the incidents take to come up to two thirds."""
    spreads: bool = False
    """Whether it starts at one server and reaches the others one after the other."""


SCENARIOS = {
    "healthy": Scenario("Usual life: daily rhythms, jobs, a small incident now and then."),
    "degrading": Scenario(
        "Memory leaks and disks fill, over hours.",
        leak=4.0, fill=4.0,
    ),
    "critical": Scenario(
        "Overload that grows within the hour, and a fast leak beside it.",
        leak=9.0, fill=4.0, overload=1.25, storage=0.3, ramp_hours=0.8,
    ),
    "cascade": Scenario(
        "Slow storage and overload at one server; what depends on it follows, one by one.",
        leak=5.0, overload=1.1, storage=0.9, ramp_hours=0.6, spreads=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """Which scenario runs, where, and since when."""

    scenario: str
    target: str
    """`fleet`, `profile:NAME` or `server:NAME`."""
    since: int
    """Unix seconds of the first tick under it."""


class LiveFleet:
    """A synthetic fleet that reports tick after tick; any thread may switch its scenario."""

    def __init__(self, spec: FleetSpec) -> None:
        """Start at the spec's first midnight; it goes on for longer than the spec's `hours`."""
        self.spec = spec
        self.servers = spec.servers
        self.course = Course(self.servers, spec.step_seconds, spec.start, spec.seed)
        size = len(self.servers)
        # Servers differ: some leak faster, some are hit harder.
        self._luck = stream(spec.seed, _SCENARIOS_STREAM).uniform(0.6, 1.4, (3, size))
        self._onset = np.full(size, _NEVER)  # [S] tick at which the scenario reaches a server
        self._push = np.zeros((size, len(KINDS)))  # [S, KINDS] strength of its incidents
        self._leaked = np.zeros(size)  # [S] percentage points of memory it has taken
        self._filled = np.zeros(size)  # [S] of disk
        self._chosen = Chosen("healthy", FLEET, self.time)
        self._lock = Lock()

    @property
    def time(self) -> int:
        """Unix seconds of the next tick."""
        return round(self.spec.start.timestamp()) + self.course.tick * self.spec.step_seconds

    @property
    def chosen(self) -> Chosen:
        """The scenario that runs."""
        return self._chosen

    @property
    def targets(self) -> tuple[str, ...]:
        """Everything a scenario can be applied to."""
        profiles = dict.fromkeys(server.profile.name for server in self.servers)
        return (
            FLEET,
            *(PROFILE_PREFIX + name for name in profiles),
            *(SERVER_PREFIX + server.name for server in self.servers),
        )

    def choose(self, scenario: str, target: str = FLEET) -> Chosen:
        """Switch to a scenario; what the one before has done wears off where this one is not.

        Args:
            scenario: a name in `SCENARIOS`.
            target: one of `targets`; a cascade starts there.

        Raises:
            ValueError: there is no such scenario or target.
        """
        if scenario not in SCENARIOS:
            raise ValueError(f"scenario {scenario!r} is none of {', '.join(SCENARIOS)}")
        if target not in self.targets:
            raise ValueError(
                f"target {target!r} is not of this fleet; take {FLEET}, {PROFILE_PREFIX}NAME or "
                f"{SERVER_PREFIX}NAME with a name it has"
            )
        with self._lock:
            self._onset = self._onsets(scenario, target)
            self._chosen = Chosen(scenario, target, self.time)
            return self._chosen

    def step(self) -> list[dict[str, Any]]:
        """Move by one tick and return its rows, as `POST /api/v1/feed` takes them.

        A server that is down, or whose agent is, has no row.
        """
        with self._lock:
            time = self.time
            self._bend()
            values, present = self.course.step()
        return [
            {
                "timestamp": time,
                "server_name": server.name,
                "profile": server.profile.name,
                "values": dict(zip(METRICS, row, strict=True)),
            }
            for server, row, reports in zip(self.servers, values.tolist(), present, strict=True)
            if reports
        ]

    def _bend(self) -> None:
        """Move what the scenario does to the machines by one tick."""
        scenario, machines = SCENARIOS[self._chosen.scenario], self.course.machines
        hours = self.spec.step_seconds / 3600
        hit = self._onset <= self.course.tick  # [S]
        leaky, dirty, hard = self._luck
        worn = 1 - np.exp(-hours / _RECOVERY_HOURS)
        # A restart or a clean-up in between has freed what had leaked and filled.
        leaked = np.minimum(self._leaked, machines.leak)
        filled = np.minimum(self._filled, (machines.data - machines.traits.data_floor).clip(0))
        leaks = np.where(hit, scenario.leak * leaky * hours, -worn * leaked)
        fills = np.where(hit, scenario.fill * dirty * hours, -worn * filled)
        machines.leak = machines.leak + leaks
        machines.data = machines.data + fills
        self._leaked, self._filled = leaked + leaks, filled + fills
        want = np.zeros_like(self._push)
        want[hit, _OVERLOAD] = scenario.overload * hard[hit]
        want[hit, _STORAGE] = scenario.storage * hard[hit]
        pace = np.where(hit, 1 - np.exp(-hours / scenario.ramp_hours), worn)
        self._push += (want - self._push) * pace[:, None]
        machines.incident = np.maximum(machines.incident, self._push)

    def _onsets(self, scenario: str, target: str) -> npt.NDArray[np.int64]:
        """Return the tick at which a scenario reaches each server, [S]."""
        onset = np.full(len(self.servers), _NEVER)
        if scenario == "healthy":
            return onset
        inside = [s for s in range(len(self.servers)) if self._is_of(s, target)]
        if not SCENARIOS[scenario].spreads:
            onset[inside] = self.course.tick
            return onset
        between = SPREAD_HOURS * 3600 / self.spec.step_seconds
        origin = max(inside, key=lambda s: len(self.servers[s].profile.dependents))
        for place, s in enumerate(self._reach(origin)):
            onset[s] = self.course.tick + round(place * between)
        return onset

    def _is_of(self, server: int, target: str) -> bool:
        """Tell whether a target names a server, its profile, or the fleet."""
        one = self.servers[server]
        return target in (FLEET, PROFILE_PREFIX + one.profile.name, SERVER_PREFIX + one.name)

    def _reach(self, origin: int) -> Iterator[int]:
        """Yield where a cascade goes: its origin, its profile, what depends on it, and so on."""
        yield origin
        profiles = [self.servers[origin].profile.name]
        for profile in profiles:  # grows as it goes
            profiles += [name for name in PROFILES[profile].dependents if name not in profiles]
            for s, server in enumerate(self.servers):
                if server.profile.name == profile and s != origin:
                    yield s
