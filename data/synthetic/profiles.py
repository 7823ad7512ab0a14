"""What servers of each profile do all week: levels, daily curves, batch jobs, disk habits."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Curve = tuple[float, ...]  # one value an hour, relative

# Hour 0 to 23, UTC. Only the shape counts: a profile's week is scaled to a mean of one.
_OFFICE: Curve = (
    *(0.35, 0.30, 0.28, 0.27, 0.28, 0.33, 0.48, 0.75, 1.15, 1.50, 1.62, 1.58),
    *(1.42, 1.50, 1.64, 1.62, 1.50, 1.28, 1.08, 0.96, 0.86, 0.74, 0.58, 0.45),
)
_OFFICE_WEEKEND: Curve = (
    *(0.36, 0.30, 0.27, 0.25, 0.25, 0.26, 0.30, 0.38, 0.48, 0.58, 0.66, 0.70),
    *(0.71, 0.70, 0.68, 0.67, 0.68, 0.71, 0.73, 0.70, 0.62, 0.54, 0.46, 0.40),
)
_STEADY: Curve = (
    *(0.80, 0.76, 0.74, 0.74, 0.75, 0.78, 0.86, 0.98, 1.12, 1.20, 1.24, 1.24),
    *(1.20, 1.22, 1.25, 1.24, 1.20, 1.12, 1.04, 1.00, 0.96, 0.92, 0.88, 0.84),
)
_STEADY_WEEKEND: Curve = (
    *(0.76, 0.73, 0.71, 0.70, 0.70, 0.71, 0.74, 0.78, 0.83, 0.87, 0.90, 0.91),
    *(0.91, 0.91, 0.90, 0.90, 0.89, 0.88, 0.87, 0.86, 0.84, 0.82, 0.80, 0.78),
)
_MARKET: Curve = (
    *(0.50, 0.48, 0.47, 0.47, 0.50, 0.60, 0.85, 1.35, 1.60, 1.50, 1.40, 1.35),
    *(1.30, 1.45, 1.65, 1.70, 1.75, 1.30, 0.95, 0.80, 0.70, 0.62, 0.56, 0.52),
)
_IDLE_WEEKEND: Curve = (0.42,) * 24


@dataclass(frozen=True)
class Job:
    """A batch job, at about the same time every day it runs; how long depends on the day."""

    hour: float
    """Usual start, hours after midnight UTC."""
    minutes: float
    """Median run time of an undisturbed server."""
    weekday: float
    """Chance that it runs on a day from Monday to Friday."""
    weekend: float
    """Chance that it runs on a Saturday or Sunday."""
    cpu: float
    """CPU percentage points while it runs."""
    memory: float = 0.0
    """Memory percentage points once its working set is loaded."""
    io: float = 0.0
    """Extra I/O, in multiples of the profile's usual level."""
    net_in: float = 0.0
    """Extra traffic in, in multiples of the usual level."""
    net_out: float = 0.0
    """Extra traffic out, in multiples of the usual level."""
    disk: float = 0.0
    """Disk percentage points written per hour of run time."""
    spread: float = 0.25
    """Spread of the run time from day to day, as a standard deviation of its logarithm."""

    @property
    def duty(self) -> float:
        """Expected share of a week that the job runs."""
        chance = (5 * self.weekday + 2 * self.weekend) / 7
        return chance * self.minutes / 1440 * (1 + self.spread**2 / 2)


@dataclass(frozen=True)
class Profile:
    """One kind of server: levels are means over a month, before what is personal is drawn."""

    name: str
    prefix: str
    cpu: float
    io_wait: float
    memory: float
    disk: float
    net_in: float
    net_out: float
    load: float
    weekday: Curve
    weekend: Curve
    jobs: tuple[Job, ...]
    working_set: float
    """Memory percentage points that come and go with demand."""
    bursts_per_day: float
    """How often demand leaves its curve, at the mean demand."""
    burst_size: float
    """Median size of a burst, in multiples of the usual demand."""
    hourly: float
    """Share by which demand jumps at the start of every hour (schedulers, micro-batches)."""
    disk_swing: float
    """Percentage points that data grow by between two clean-ups."""
    disk_growth: float
    """Percentage points that data grow by per day."""
    logs_per_day: float
    """Percentage points of logs a day, rotated away at a fixed hour."""
    chronic_leaks: float
    """Share of servers that always leak memory."""
    dependents: tuple[str, ...]
    """Profiles that suffer with it: an incident spreads there and within the profile."""

    @property
    def week_mean(self) -> float:
        """Mean of the raw curves over a week."""
        return (5 * sum(self.weekday) + 2 * sum(self.weekend)) / (7 * 24)

    def expected(self, effect: str) -> float:
        """Return the mean over a week of one effect of the jobs."""
        return sum(job.duty * float(getattr(job, effect)) for job in self.jobs)


def _training(hour: float, minutes: float) -> Job:
    """Return a training run: as often skipped as not, and of a length hard to tell."""
    return Job(
        hour,
        minutes,
        weekday=0.62,
        weekend=0.25,
        cpu=36,
        memory=14,
        io=0.8,
        net_in=1.5,
        disk=0.9,
        spread=0.4,
    )


_ALL = (
    Profile(
        name="ml_compute",
        prefix="ppml",
        cpu=45,
        io_wait=2,
        memory=72,
        disk=55,
        net_in=8.5,
        net_out=5.2,
        load=6.5,
        weekday=_STEADY,
        weekend=_STEADY_WEEKEND,
        jobs=(_training(9.5, 140), _training(14.0, 170), _training(20.0, 300)),
        working_set=6,
        bursts_per_day=1.2,
        burst_size=0.35,
        hourly=0.03,
        disk_swing=34,
        disk_growth=0.4,
        logs_per_day=1.0,
        chronic_leaks=0.3,
        dependents=(),
    ),
    Profile(
        name="database",
        prefix="ppdb",
        cpu=25,
        io_wait=15,
        memory=68,
        disk=70,
        net_in=35,
        net_out=28,
        load=4.2,
        weekday=_OFFICE,
        weekend=_OFFICE_WEEKEND,
        jobs=(
            Job(2.0, 75, 0.98, 0.98, cpu=14, memory=3, io=1.6, net_out=2.2, disk=1.2),
            Job(4.5, 45, 0.3, 0.9, cpu=18, memory=4, io=1.2),
            Job(7.0, 35, 0.95, 0.1, cpu=22, memory=3, io=0.8, net_out=0.8),
        ),
        working_set=7,
        bursts_per_day=2.0,
        burst_size=0.45,
        hourly=0.05,
        disk_swing=36,
        disk_growth=1.7,
        logs_per_day=3.0,
        chronic_leaks=0.25,
        dependents=("web_api", "risk_analytics", "conductor_mgmt"),
    ),
    Profile(
        name="web_api",
        prefix="ppweb",
        cpu=18,
        io_wait=3,
        memory=45,
        disk=35,
        net_in=85,
        net_out=120,
        load=2.8,
        weekday=_OFFICE,
        weekend=_OFFICE_WEEKEND,
        jobs=(Job(0.4, 20, 0.97, 0.97, cpu=6, io=1.5, net_out=0.2),),
        working_set=12,
        bursts_per_day=4.0,
        burst_size=0.6,
        hourly=0.02,
        disk_swing=9,
        disk_growth=0.25,
        logs_per_day=6.0,
        chronic_leaks=0.0,
        dependents=("database",),
    ),
    Profile(
        name="conductor_mgmt",
        prefix="ppcon",
        cpu=15,
        io_wait=2,
        memory=42,
        disk=40,
        net_in=22,
        net_out=18,
        load=3.2,
        weekday=_STEADY,
        weekend=_STEADY_WEEKEND,
        jobs=(Job(23.0, 40, 0.95, 0.6, cpu=14, memory=3, io=1.5, net_out=0.6),),
        working_set=5,
        bursts_per_day=2.0,
        burst_size=0.4,
        hourly=0.3,
        disk_swing=12,
        disk_growth=0.3,
        logs_per_day=4.0,
        chronic_leaks=0.0,
        dependents=("ml_compute", "risk_analytics"),
    ),
    Profile(
        name="data_ingest",
        prefix="ppetl",
        cpu=35,
        io_wait=8,
        memory=62,
        disk=65,
        net_in=150,
        net_out=95,
        load=5.5,
        weekday=_MARKET,
        weekend=_IDLE_WEEKEND,
        jobs=(
            Job(1.0, 190, 0.98, 0.7, cpu=38, memory=12, io=1.6, net_in=1.6, net_out=1.0, disk=4.5),
            Job(12.5, 40, 0.9, 0.1, cpu=24, memory=6, io=1.2, net_in=1.2, net_out=0.8, disk=3.5),
            Job(18.0, 80, 0.97, 0.1, cpu=32, memory=9, io=1.4, net_in=1.5, net_out=1.0, disk=4.0),
        ),
        working_set=6,
        bursts_per_day=2.0,
        burst_size=0.4,
        hourly=0.35,
        disk_swing=42,
        disk_growth=1.3,
        logs_per_day=4.0,
        chronic_leaks=0.25,
        dependents=("database", "risk_analytics"),
    ),
    Profile(
        name="risk_analytics",
        prefix="pprisk",
        cpu=55,
        io_wait=2,
        memory=70,
        disk=50,
        net_in=12,
        net_out=8,
        load=8.2,
        weekday=_MARKET,
        weekend=_IDLE_WEEKEND,
        jobs=(
            Job(
                21.5, 320, 0.98, 0.25, cpu=42, memory=15, io=1.5, net_in=1.0, net_out=0.6, disk=1.6
            ),
            Job(7.0, 45, 0.95, 0.0, cpu=24, memory=7, net_in=1.0, net_out=0.5, disk=1.0),
            Job(12.0, 40, 0.9, 0.0, cpu=24, memory=7, net_in=1.0, net_out=0.5, disk=1.0),
            Job(16.5, 60, 0.97, 0.0, cpu=28, memory=8, net_in=1.0, net_out=0.5, disk=1.0),
        ),
        working_set=7,
        bursts_per_day=1.5,
        burst_size=0.3,
        hourly=0.05,
        disk_swing=22,
        disk_growth=0.5,
        logs_per_day=2.0,
        chronic_leaks=0.2,
        dependents=(),
    ),
    Profile(
        name="generic",
        prefix="ppgen",
        cpu=12,
        io_wait=1,
        memory=35,
        disk=30,
        net_in=15,
        net_out=12,
        load=1.5,
        weekday=_OFFICE,
        weekend=_OFFICE_WEEKEND,
        jobs=(Job(3.0, 25, 0.95, 0.95, cpu=10, memory=2, io=2.0, net_out=1.0),),
        working_set=5,
        bursts_per_day=2.0,
        burst_size=0.5,
        hourly=0.05,
        disk_swing=10,
        disk_growth=0.3,
        logs_per_day=2.0,
        chronic_leaks=0.0,
        dependents=(),
    ),
)

PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})
"""Every profile of the synthetic fleet, by name."""
