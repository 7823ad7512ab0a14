"""The synthetic fleet as it runs: one step for all servers at once, tick after tick.

Nothing here is a column except what `Machines.measure` returns: leaks, queues, bursts and incidents
are the simulator's own, and a forecaster has to infer them as it would have to in life.

Shapes: S servers, T ticks, n ticks of a day, J jobs of a day.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from data.synthetic.plan import (
    JOB_EFFECTS,
    KINDS,
    STAGING_HOURS,
    Array,
    Day,
    PlannedIncident,
    Server,
    Traits,
    draw_traits,
    job_effects,
    plan_day,
    plan_gaps,
    plan_incidents,
)

METRICS = (
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "load_average",
    "network_in_mbs",
    "network_out_mbs",
    "io_wait_percent",
    "swap_percent",
)
_PERCENTAGES = [METRICS.index(name) for name in METRICS if name.endswith("percent")]
_DAILY = -1.0


@dataclass(frozen=True)
class Simulation:
    """What the servers measured, and what had happened to them."""

    values: npt.NDArray[np.float32]  # [S, T, METRICS], two decimals
    present: npt.NDArray[np.bool_]  # [S, T], False where no row was reported
    incidents: list[PlannedIncident]
    restarts: list[tuple[int, int, str]]  # (tick, server, reason)


def _squash(value: Array, knee: float, top: float) -> Array:
    """Return values unchanged up to the knee, then bent so that they never pass the top."""
    room = top - knee
    over = np.maximum(value - knee, 0.0)
    return np.where(value > knee, knee + room * (1 - np.exp(-over / room)), value)


class Machines:
    """The state of all servers, each [S] unless it says otherwise."""

    def __init__(self, servers: Sequence[Server], traits: Traits, step_seconds: int) -> None:
        size = len(servers)
        self.traits = traits
        self.step_hours = step_seconds / 3600
        self.effects = job_effects(servers)  # [S, J, JOB_EFFECTS]
        expected = {
            effect: np.array([server.profile.expected(effect) for server in servers])
            for effect in JOB_EFFECTS
        }
        # A level is the mean with the jobs and bursts in it.
        bursts = 1.6 / 24 * traits.bursts_per_day * traits.burst_size
        self.usual = 1.015 + bursts
        self.io_usual = traits.io / (1 + expected["io"])
        self.net_in_usual = traits.net_in / (1 + expected["net_in"])
        self.net_out_usual = traits.net_out / (1 + expected["net_out"])
        self.stray = np.zeros(size)  # of demand from its curve: own, and shared by the profile
        self.mood = np.zeros(size)
        self.bursting = np.zeros(size, dtype=bool)
        self.burst_size = np.zeros(size)
        self.burst = np.zeros(size)
        self.excitement = np.zeros(size)
        self.queue = np.zeros(self.effects.shape[:2])  # ticks of work left, [S, J]
        self.job = np.zeros((size, len(JOB_EFFECTS)))
        self.aim = np.zeros((size, len(KINDS)))  # where an incident is heading
        self.incident = np.zeros((size, len(KINDS)))
        self.demand = np.ones(size)
        self.slow_demand = np.ones(size)
        self.caches = np.zeros(size)
        self.jitter = np.zeros(size)
        self.cpu = traits.cpu_level.copy()
        self.memory = traits.memory_base.copy()
        self.chronic = np.isfinite(traits.chronic_hours)
        self.leak_rate = np.where(self.chronic, self._room() / traits.chronic_hours, 0.0)
        self.leak = self._room() * traits.leak_start
        self.warm = np.ones(size)  # 0 just after a restart
        self.cold = np.zeros(size)
        self.swap = traits.swap_base.copy()
        self.data = traits.data_start.copy()
        self.logs = traits.logs * np.where(traits.rotation_weekday == _DAILY, 0.5, 2.0)
        self.staging = expected["disk"] * STAGING_HOURS
        self.cleaning = np.zeros(size, dtype=np.int64)  # ticks of clean-up left
        self.load = traits.load.copy()
        self.down = np.zeros(size, dtype=np.int64)  # ticks until a restarted server reports

    def _room(self) -> Array:
        """Return the memory a leak can take."""
        return np.maximum(self.traits.memory_limit + 2 - self.traits.memory_base, 8.0)

    def _toward(self, minutes: float) -> float:
        """Return the share of the way gone in one tick by what takes `minutes` to settle."""
        return float(1 - np.exp(-self.step_hours * 60 / minutes))

    def _chance(self, hours: float) -> float:
        """Return the chance in one tick of what happens once in `hours`."""
        return float(1 - np.exp(-self.step_hours / hours))

    def want(self, day: Day, i: int) -> None:
        """Move demand: its curve, what strays from it, and bursts that call for more bursts."""
        normals, uniforms, traits = day.normals[i], day.uniforms[i], self.traits
        own, shared = self._toward(55), self._toward(420)
        self.stray += -own * self.stray + 0.11 * np.sqrt(2 * own) * normals[:, 0]
        self.mood += -shared * self.mood + 0.10 * np.sqrt(2 * shared) * day.mood[i]
        self.excitement *= 1 - self._toward(120)
        rate = traits.bursts_per_day / 24 * day.demand[i] * (1 + self.excitement)
        starts = ~self.bursting & (uniforms[:, 0] < rate * self.step_hours)
        self.bursting &= uniforms[:, 1] >= self._chance(0.7)
        self.bursting |= starts
        size = traits.burst_size * np.exp(0.5 * normals[:, 5])
        self.burst_size = np.where(starts, size, self.burst_size)
        self.excitement += 2.0 * starts
        gap = np.where(self.bursting, self.burst_size, 0.0) - self.burst
        self.burst += gap * np.where(gap > 0, self._toward(8), self._toward(25))
        stray = traits.restlessness * self.stray + self.mood
        self.demand = day.demand[i] * np.exp(stray) * (1 + self.burst) / self.usual
        self.slow_demand += (self.demand - self.slow_demand) * self._toward(60)

    def work(self, day: Day, i: int) -> None:
        """Run the queued jobs: those that run together, or on slow storage, take longer."""
        self.queue += np.where(day.job_start == i, day.job_ticks, 0.0)
        running = self.queue > 0  # [S, J]
        others = np.maximum(running.sum(axis=1) - 1, 0)
        speed = (1 - 0.5 * np.minimum(self.incident[:, 1], 1)) / (1 + 0.3 * others)
        self.queue = np.maximum(self.queue - speed[:, None] * running, 0.0)
        gap = np.einsum("sj,sje->se", running, self.effects) - self.job
        pace = np.full(len(JOB_EFFECTS), self._toward(10))
        pace[1] = self._toward(35)  # memory: a working set is loaded and freed more slowly
        self.job += gap * pace
        gap = self.aim - self.incident
        self.incident += gap * np.where(gap > 0, self._toward(18), self._toward(22))

    def compute(self, day: Day, i: int) -> None:
        """Move CPU and memory, leaks included."""
        normals, uniforms, traits = day.normals[i], day.uniforms[i], self.traits
        overload, storage = self.incident[:, 0], self.incident[:, 1]
        self.jitter += -self._toward(9) * self.jitter + 0.05 * normals[:, 1]
        wobble = 1 + self.jitter + 0.03 * normals[:, 4]
        busy = traits.cpu_service * self.demand + self.job[:, 0] * traits.scale
        strain = 0.9 * np.maximum(self.memory - 89, 0) + 10 * self.cold
        cpu = (traits.cpu_idle + busy) * wobble + 42 * overload + 7 * storage + strain
        self.cpu = _squash(cpu, 82, 100)
        self.warm += (1 - self.warm) * self._toward(500)
        self.cold *= 1 - self._toward(15)
        starts = (self.leak_rate == 0) & (day.demand[i] > 1) & (uniforms[:, 2] < self._chance(220))
        hours = np.exp(2.8 + 0.7 * normals[:, 5])
        self.leak_rate = np.where(starts, self._room() / hours, self.leak_rate)
        self.leak += self.leak_rate * (0.35 + 0.65 * self.slow_demand) * self.step_hours
        memory = traits.memory_base + traits.working_set * np.minimum(self.slow_demand - 1, 1.5)
        drift = self._toward(300)
        self.caches += -drift * self.caches + 1.1 * np.sqrt(2 * drift) * normals[:, 7]
        memory += self.caches + self.job[:, 1] + self.leak + 6 * overload - 7 * (1 - self.warm)
        self.memory = _squash(np.maximum(memory, 3.0) + 0.25 * normals[:, 2], 88, 99.5)
        wanted = traits.swap_base + 4.5 * np.maximum(self.memory - 90, 0)
        gap = wanted - self.swap
        self.swap += gap * np.where(gap > 0, self._toward(35), self._toward(200))

    def store(self, day: Day, i: int) -> None:
        """Fill the disks, rotate logs at their hour, clean up what passes its limit."""
        traits, hours = self.traits, self.step_hours
        hour = i * hours
        pace = 0.4 + 0.6 * self.demand
        self.data += traits.data_growth / 24 * pace * hours
        self.staging += self.job[:, 5] * hours - self.staging * self._toward(60 * STAGING_HOURS)
        self.logs += (traits.logs / 24 * pace + 22 * self.incident[:, 2]) * hours
        due = (hour <= traits.rotation_hour) & (traits.rotation_hour < hour + hours)
        due &= (traits.rotation_weekday == _DAILY) | (traits.rotation_weekday == day.weekday)
        self.logs = np.where(due, 0.12 * self.logs, self.logs)
        full = self.disk() > traits.disk_limit
        begins = full & (self.cleaning == 0) & (day.uniforms[i, :, 3] < self._chance(1.5))
        self.cleaning = np.where(begins, 3, np.maximum(self.cleaning - 1, 0))
        now = self.cleaning > 0
        spare = np.maximum(self.data - traits.data_floor, 0.0)
        self.data -= np.where(now, 0.6 * spare, 0.0)
        self.logs = np.where(now, 0.45 * self.logs, self.logs)
        self.staging = np.where(now, 0.6 * self.staging, self.staging)

    def disk(self) -> Array:
        """Return the disks' fill."""
        fill: Array = np.minimum(self.data + self.logs + self.staging, 100.0)
        return fill

    def restart(self, day: Day, i: int) -> list[tuple[int, str]]:
        """Restart what ran out of memory, what an operator saw in time, what is to be patched."""
        uniforms, traits = day.uniforms[i], self.traits
        hour, weekday = i * self.step_hours, day.weekday
        self.down = np.maximum(self.down - 1, 0)
        killed = (self.memory > traits.memory_limit) & (uniforms[:, 4] < self._chance(0.5))
        attended = weekday < 5 and 8 <= hour < 18
        worried = (self.leak > 6) & (self.memory > 90) & (uniforms[:, 5] < self._chance(5))
        worried &= attended
        fixed = (self.leak > 4) & ~self.chronic & (uniforms[:, 5] > 1 - self._chance(90))
        patched = (traits.patch_weekday == weekday) & (3 <= hour < 3 + self.step_hours)
        restarted = (killed | worried | fixed | patched) & (self.down == 0)
        if not restarted.any():
            return []
        length = np.where(uniforms[:, 6] < 0.9, 0.08 + 0.2 * uniforms[:, 7], 0.9)
        ticks = np.ceil(length / self.step_hours).astype(np.int64)
        self.down = np.where(restarted, ticks, self.down)
        self.leak = np.where(restarted, 0.0, self.leak)
        self.leak_rate = np.where(restarted & ~self.chronic, 0.0, self.leak_rate)
        self.swap = np.where(restarted, traits.swap_base, self.swap)
        self.warm = np.where(restarted, 0.0, self.warm)
        self.cold = np.where(restarted, 1.0, self.cold)
        self.queue = np.where(restarted[:, None], 0.0, self.queue)
        self.job = np.where(restarted[:, None], 0.0, self.job)
        reasons = np.select([killed, worried | fixed], ["out_of_memory", "operator"], "patch")
        return [(int(s), str(reasons[s])) for s in np.flatnonzero(restarted)]

    def tick(self, day: Day, i: int) -> list[Array]:
        """Move everything by one tick and return what was measured, in the order of `METRICS`."""
        self.want(day, i)
        self.work(day, i)
        self.compute(day, i)
        self.store(day, i)
        return self.measure(day, i)

    def measure(self, day: Day, i: int) -> list[Array]:
        """Return what the agents see, in the order of `METRICS`."""
        normals, traits = day.normals[i], self.traits
        overload, storage = self.incident[:, 0], self.incident[:, 1]
        activity = 0.45 + 0.55 * self.demand * np.exp(0.22 * normals[:, 4])
        paging = 0.2 * np.maximum(self.swap - traits.swap_base, 0)
        io = self.io_usual * (activity + self.job[:, 2]) + 26 * storage + 3 * overload + paging
        io = np.minimum(io, 100 - self.cpu)
        relative = 0.78 * (self.cpu / traits.cpu_level) ** 1.1 + 0.12 * io / traits.io.clip(2)
        crowd = 1 + 1.3 * np.maximum(self.cpu - 78, 0) / 20 + 0.02 * np.maximum(io - 20, 0)
        self.load += (traits.load * relative * crowd - self.load) * self._toward(8)
        served = self.demand * (1 + 0.35 * overload) * (1 - 0.35 * np.minimum(storage, 1))
        noise = np.exp(0.10 * normals[:, 3])
        return [
            self.cpu,
            self.memory,
            self.disk() + 0.03 * normals[:, 6],
            self.load * np.exp(0.05 * normals[:, 6]),
            self.net_in_usual * (served + self.job[:, 3]) * noise,
            self.net_out_usual * (served + self.job[:, 4]) * noise * np.exp(0.05 * normals[:, 6]),
            io,
            self.swap,
        ]


def _turns(incident: PlannedIncident) -> Iterator[tuple[int, tuple[int, int, float]]]:
    """Yield the ticks at which an incident changes what a server is heading for."""
    kind = KINDS.index(incident.kind)
    for hit in incident.hits:
        yield hit.start, (hit.server, kind, hit.strength)
        yield hit.end, (hit.server, kind, 0.0)


def _within(incidents: list[PlannedIncident], ticks: int) -> list[PlannedIncident]:
    """Return the incidents, and the parts of them, that begin before the run ends."""
    kept = [
        replace(incident, hits=tuple(hit for hit in incident.hits if hit.start < ticks))
        for incident in incidents
    ]
    return sorted((one for one in kept if one.hits), key=lambda one: one.hits[0].start)


class Course:
    """A fleet's way through time, one tick after the other, for as long as anybody asks."""

    def __init__(
        self, servers: Sequence[Server], step_seconds: int, start: datetime, seed: int
    ) -> None:
        self.servers, self.start, self.seed = servers, start, seed
        self.per_day = 86_400 // step_seconds
        self.tick = 0
        """Of the next step."""
        self.traits = draw_traits(servers, seed)
        self.machines = Machines(servers, self.traits, step_seconds)
        self.incidents: list[PlannedIncident] = []
        self.restarts: list[tuple[int, int, str]] = []  # (tick, server, reason)
        self._turns: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
        self._gaps: dict[int, list[tuple[int, int]]] = defaultdict(list)  # begin: (server, end)
        self._silent_until = np.zeros(len(servers), dtype=np.int64)

    def step(self) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Move by one tick.

        Returns:
            What was measured, [S, METRICS] with two decimals, and who reported, [S].
        """
        number, i = divmod(self.tick, self.per_day)
        if i == 0:
            self._begin_day(number)
        for s, kind, strength in self._turns.pop(self.tick, ()):
            self.machines.aim[s, kind] = strength
        for s, end in self._gaps.pop(self.tick, ()):
            self._silent_until[s] = max(self._silent_until[s], end)
        measured: Array = np.array(self.machines.tick(self._day, i))
        restarted = self.machines.restart(self._day, i)
        self.restarts += [(self.tick, s, reason) for s, reason in restarted]
        present = (self._silent_until <= self.tick) & (self.machines.down == 0)
        present |= self.tick == 0  # every server is seen at least once
        measured[_PERCENTAGES] = np.minimum(measured[_PERCENTAGES], 100.0)
        self.tick += 1
        return np.maximum(measured, 0.0).round(2).T, present

    def _begin_day(self, number: int) -> None:
        """Draw what the day has in store."""
        per_day = self.per_day
        self._day = plan_day(self.servers, self.traits, self.seed, number, self.start, per_day)
        for s, server in enumerate(self.servers):
            for begin, length in plan_gaps(server, self.seed, number, per_day):
                self._gaps[begin].append((s, begin + length))
        for incident in plan_incidents(self.servers, self.seed, number, per_day):
            self.incidents.append(incident)
            for tick, turn in _turns(incident):
                self._turns[tick].append(turn)


def simulate(
    servers: Sequence[Server],
    hours: int,
    step_seconds: int,
    start: datetime,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Simulation:
    """Run a fleet.

    Args:
        servers: what it consists of.
        hours: how long it runs.
        step_seconds: seconds between ticks; divides an hour.
        start: midnight of the first day.
        seed: of everything random.
        progress: called with the fraction done, once a day of the run.

    Returns:
        Values and presence of every server and tick, and the events behind them.
    """
    ticks = hours * 3600 // step_seconds
    course = Course(servers, step_seconds, start, seed)
    values = np.empty((len(servers), ticks, len(METRICS)), dtype=np.float32)
    present = np.ones((len(servers), ticks), dtype=bool)
    for tick in range(ticks):
        values[:, tick], present[:, tick] = course.step()
        done = tick + 1
        if progress is not None and (done % course.per_day == 0 or done == ticks):
            progress(done / ticks)
    return Simulation(values, present, _within(course.incidents, ticks), course.restarts)
