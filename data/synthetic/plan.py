"""What is drawn before the synthetic fleet runs: characters, demand, jobs, incidents, gaps.

Every draw belongs to a server (or to a profile, or to the fleet) and a day. So a longer run begins
with the shorter one, and one server's own luck does not depend on how many others there are.

Shapes: S servers, n ticks of a day, J jobs of a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import numpy.typing as npt

from data.synthetic.profiles import PROFILES, Profile

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

JOB_EFFECTS = ("cpu", "memory", "io", "net_in", "net_out", "disk")
NUM_JOBS = max(len(profile.jobs) for profile in PROFILES.values())
STAGING_HOURS = 9  # what a job wrote is kept about as long
NUM_NORMALS, NUM_UNIFORMS = 8, 8  # what one tick of one server uses

# Incident kinds: chance, and whether it spreads to other servers.
KINDS = ("overload", "slow_storage", "log_flood")
_KIND_CHANCE = (0.45, 0.35, 0.20)
_SPREADING = ("overload", "slow_storage")
_INCIDENTS_PER_SERVER_DAY = 0.06

_SERVER, _PROFILE, _FLEET, _TRAITS = range(4)  # purpose of a random stream


@dataclass(frozen=True)
class Server:
    """One synthetic server."""

    name: str
    profile: Profile
    number: int


@dataclass(frozen=True)
class Hit:
    """A part of an incident: one server, from when to when, and how hard."""

    server: int
    start: int
    end: int
    strength: float


@dataclass(frozen=True)
class PlannedIncident:
    """An incident: its first hit is where it starts, the others are where it spreads."""

    kind: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Traits:
    """What stays with a server for good, each [S]; memory and disk in percentage points."""

    scale: Array  # of everything demand causes
    cpu_idle: Array
    cpu_service: Array
    cpu_level: Array
    memory_base: Array
    memory_limit: Array  # above it the kernel or the watchdog restarts the server
    chronic_hours: Array  # from empty to full for a server that always leaks, else infinite
    working_set: Array
    swap_base: Array
    data_floor: Array
    data_start: Array
    data_growth: Array
    logs: Array
    disk_limit: Array  # above it somebody, or a cron job, cleans up
    io: Array
    net_in: Array
    net_out: Array
    load: Array
    phase: Array  # hours the daily curve is shifted by
    trend: Array  # growth of demand over 30 days
    restlessness: Array  # how far demand strays from its curve
    bursts_per_day: Array
    burst_size: Array
    hourly: Array
    rotation_hour: Array
    rotation_weekday: Array  # -1: logs are rotated daily
    patch_weekday: Array  # -1: never restarted by plan
    job_offset: Array  # hours
    leak_start: Array  # share of the free memory that has leaked when the run begins


@dataclass(frozen=True)
class Day:
    """One day's plan."""

    weekday: int  # 0 is Monday
    demand: Array  # [n, S], mean about one
    normals: Array  # [n, S, NUM_NORMALS]
    uniforms: Array  # [n, S, NUM_UNIFORMS]
    mood: Array  # [n, S] standard normals shared by a profile
    job_start: Ints  # [S, J] tick of the day, -1: does not run
    job_ticks: Array  # [S, J] run time


def stream(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """Return the random stream of one purpose and key, the same in every process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, *key])))


def _prefix_key(profile: Profile) -> int:
    """Return a number that stays a profile's whatever else the fleet holds."""
    return int.from_bytes(profile.prefix.encode(), "big")


def _draw_traits(server: Server, seed: int) -> dict[str, float]:
    """Return one server's `Traits`."""
    profile = server.profile
    rng = stream(seed, _TRAITS, _prefix_key(profile), server.number)
    scale = float(np.exp(rng.uniform(-0.12, 0.12)))
    cpu_idle = 0.22 * profile.cpu
    weekly = rng.random() < 0.25
    logs = profile.logs_per_day * float(np.exp(0.25 * rng.standard_normal()))
    logs = logs / 2.5 if weekly else logs
    kept = profile.expected("disk") * STAGING_HOURS + logs * (3.2 if weekly else 0.65)
    level = profile.disk * rng.uniform(0.9, 1.1)
    floor = max(4.0, level - profile.disk_swing / 2 - kept)
    neglected = rng.random() < 0.15
    chronic = rng.random() < profile.chronic_leaks
    service = profile.cpu - cpu_idle - profile.expected("cpu")
    return {
        "scale": scale,
        "cpu_idle": cpu_idle * rng.uniform(0.9, 1.1),
        "cpu_service": service,
        "cpu_level": profile.cpu,
        "memory_base": profile.memory * rng.uniform(0.94, 1.05) - profile.expected("memory") - 1,
        "memory_limit": rng.uniform(93, 97),
        "chronic_hours": float(np.exp(rng.normal(4.7, 0.35))) if chronic else np.inf,
        "working_set": profile.working_set * rng.uniform(0.7, 1.3),
        "swap_base": rng.uniform(0, 1.5) if rng.random() < 0.6 else 0.0,
        "data_floor": floor,
        "data_start": floor + profile.disk_swing * rng.uniform(0.0, 0.95),
        "data_growth": profile.disk_growth * float(np.exp(0.45 * rng.standard_normal())),
        "logs": logs,
        "disk_limit": float(
            np.clip(floor + profile.disk_swing + kept + (12 if neglected else 4), 78, 95)
        ),
        "io": profile.io_wait * rng.uniform(0.85, 1.15),
        "net_in": profile.net_in * rng.uniform(0.94, 1.06),
        "net_out": profile.net_out * rng.uniform(0.94, 1.06),
        "load": profile.load * rng.uniform(0.92, 1.08),
        "phase": rng.uniform(-0.5, 0.5),
        "trend": rng.normal(0.02, 0.06),
        "restlessness": rng.uniform(0.7, 1.4),
        "bursts_per_day": profile.bursts_per_day * rng.uniform(0.6, 1.4),
        "burst_size": profile.burst_size,
        "hourly": profile.hourly * rng.uniform(0.6, 1.4),
        "rotation_hour": float(rng.choice([0.0, 0.25, 1.0, 4.0])),
        "rotation_weekday": 6.0 if weekly else -1.0,
        "patch_weekday": float(rng.integers(5, 7)) if rng.random() < 0.4 else -1.0,
        "job_offset": rng.uniform(-0.4, 0.4),
        "leak_start": rng.uniform(0.05, 0.6) if chronic else 0.0,
    }


def draw_traits(servers: Sequence[Server], seed: int) -> Traits:
    """Draw every server's character."""
    drawn = [_draw_traits(server, seed) for server in servers]
    names = [field.name for field in fields(Traits)]
    return Traits(**{name: np.array([traits[name] for traits in drawn]) for name in names})


def job_effects(servers: Sequence[Server]) -> Array:
    """Return what each job does while it runs, [S, J, JOB_EFFECTS], zero where there is none."""
    effects = np.zeros((len(servers), NUM_JOBS, len(JOB_EFFECTS)))
    for i, server in enumerate(servers):
        for j, job in enumerate(server.profile.jobs):
            effects[i, j] = [getattr(job, effect) for effect in JOB_EFFECTS]
    return effects


def _demand(
    servers: Sequence[Server], traits: Traits, hours: Array, day: int, weekday: int
) -> Array:
    """Return the expected demand at some hours of one day, [n, S]."""
    demand = np.empty((len(hours), len(servers)))
    for i, server in enumerate(servers):
        profile = server.profile
        around = [
            profile.weekend if (weekday + k) % 7 >= 5 else profile.weekday for k in (-1, 0, 1)
        ]
        curve = [around[0][23], *around[1], *around[2][:2]]  # hours -1 to 25
        shifted = np.interp(hours + traits.phase[i], np.arange(-1, 26), curve)
        minute = (hours * 60) % 60
        share = traits.hourly[i] * (np.exp(-minute / 10) - 0.165)  # its mean over the hour
        growth = 1 + traits.trend[i] * (day + hours / 24) / 30
        demand[:, i] = traits.scale[i] * growth * shifted / profile.week_mean * (1 + share)
    return demand


def _jobs(
    server: Server, offset: float, rng: np.random.Generator, weekday: int, ticks: int
) -> Array:
    """Return start tick and run time in ticks of every job of a day, [2, J]."""
    plan = np.full((2, NUM_JOBS), -1.0)
    chance = rng.random(NUM_JOBS)
    normals = rng.standard_normal((2, NUM_JOBS))
    for j, job in enumerate(server.profile.jobs):
        if chance[j] < (job.weekend if weekday >= 5 else job.weekday):
            start = job.hour + offset + 0.15 * normals[0, j]
            minutes = job.minutes * np.exp(job.spread * normals[1, j])
            plan[:, j] = np.clip(start / 24 * ticks, 0, ticks - 1), minutes / 1440 * ticks
    return plan


def plan_day(
    servers: Sequence[Server], traits: Traits, seed: int, day: int, start: datetime, ticks: int
) -> Day:
    """Draw one day.

    Args:
        servers: the fleet.
        traits: its characters.
        seed: of the whole run.
        day: number of the day in the run.
        start: midnight of the run's first day.
        ticks: ticks of a day.
    """
    weekday = (start.weekday() + day) % 7
    size = (len(servers),)
    normals = np.empty((ticks, *size, NUM_NORMALS))
    uniforms = np.empty((ticks, *size, NUM_UNIFORMS))
    mood = np.empty((ticks, *size))
    jobs = np.empty((*size, 2, NUM_JOBS))
    moods: dict[str, Array] = {}
    for i, server in enumerate(servers):
        key = _prefix_key(server.profile)
        if server.profile.name not in moods:
            moods[server.profile.name] = stream(seed, _PROFILE, key, day).standard_normal(ticks)
        mood[:, i] = moods[server.profile.name]
        rng = stream(seed, _SERVER, key, server.number, day)
        jobs[i] = _jobs(server, traits.job_offset[i], rng, weekday, ticks)
        normals[:, i] = rng.standard_normal((ticks, NUM_NORMALS), dtype=np.float32)
        uniforms[:, i] = rng.random((ticks, NUM_UNIFORMS), dtype=np.float32)
    demand = _demand(servers, traits, np.arange(ticks) * 24 / ticks, day, weekday)
    starts, lengths = jobs[:, 0].astype(np.int64), jobs[:, 1]
    return Day(weekday, demand, normals, uniforms, mood, starts, lengths)


def plan_incidents(
    servers: Sequence[Server], seed: int, day: int, ticks: int
) -> list[PlannedIncident]:
    """Draw the incidents that start on one day: where, when, and where each spreads."""
    rng = stream(seed, _FLEET, day)
    count = int(rng.poisson(_INCIDENTS_PER_SERVER_DAY * len(servers)))
    if day == 0:
        count = max(1, count)  # a data set of one day has something to learn from as well
    return [_incident(servers, rng, day * ticks, ticks) for _ in range(count)]


def _incident(
    servers: Sequence[Server], rng: np.random.Generator, first: int, ticks: int
) -> PlannedIncident:
    """Draw one incident of the day that begins at tick `first`."""
    kind = KINDS[int(rng.choice(len(KINDS), p=_KIND_CHANCE))]
    origin = int(rng.integers(len(servers)))
    busy = rng.random() < 0.65
    hour = rng.uniform(8, 18) if busy else rng.uniform(0, 24)
    start = first + int(hour / 24 * ticks)
    strength = rng.uniform(0.5, 1.1)
    per_minute = ticks / 1440
    minutes = float(np.exp(rng.normal(4.5 if kind == "log_flood" else 3.9, 0.5)))
    hits = [Hit(origin, start, start + max(1, round(minutes * per_minute)), strength)]
    if kind in _SPREADING:
        source = servers[origin].profile
        reach = [
            i
            for i, server in enumerate(servers)
            if i != origin and server.profile.name in (source.name, *source.dependents)
        ]
        for i in rng.permutation(reach)[:6].tolist():
            if rng.random() < 0.6:
                delay = min(60.0, 5 + rng.exponential(18))
                length = minutes * rng.uniform(0.5, 1.0)
                begin = start + max(1, round(delay * per_minute))
                end = begin + max(1, round(length * per_minute))
                hits.append(Hit(i, begin, end, strength * rng.uniform(0.5, 0.95)))
    return PlannedIncident(kind, tuple(hits))


def plan_gaps(server: Server, seed: int, day: int, ticks: int) -> list[tuple[int, int]]:
    """Draw when a server's agent reports nothing: (first tick, ticks) of gaps that start that day.

    Single ticks are lost on the way; now and then an agent is down for minutes, seldom for hours.
    """
    rng = stream(seed, _SERVER, _prefix_key(server.profile), server.number, day, 1)
    per_hour = ticks / 24
    first = day * ticks
    gaps = [(first + int(i), 1) for i in np.flatnonzero(rng.random(ticks) < 0.0015)]
    if rng.random() < 0.12:
        gaps.append((first + int(rng.integers(ticks)), round(per_hour * rng.uniform(0.15, 0.6))))
    if rng.random() < 0.015:
        gaps.append((first + int(rng.integers(ticks)), round(per_hour * rng.uniform(1.5, 7))))
    return gaps
