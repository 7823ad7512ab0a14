"""The rolling state of the fleet: what the service has been told, in memory and on disk.

| what is sent | what is done |
|---|---|
| a time off the grid, several rows of one tick, a value out of bounds, infinite or missing | as in a table, see `data.reading.table` |
| a row that is held already: same server, time and values | counted as a duplicate, changes nothing |
| other values for a server and time held already, where a source was asked again | replace all of that time |
| a row of an earlier tick than its server's last | put into its place, forecasts from then on know it |
| a row older than what is kept: the longest history a forecast reads, and a day | rejected |
| a row over one step ahead of the clock, with an unknown column, or with no number where one belongs | rejected |
| a profile or a static value | that of the newest row that names it; of rows of one time the smaller |
| a server with no row left in what is kept | forgotten |

So the state depends on which different rows were sent, not on their order or how often, and on the
newest answer of a source that is asked. What is kept is counted from the newest tick of the fleet,
not from the clock: a table of last year can be served, and is called stale.
"""  # noqa: E501

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data.fleet import BoolArray, Fleet, FloatArray, IntArray
from data.reading.clean import to_ticks
from serve.directory import Directory, Server
from serve.observations import Observation, Receipt, Rejected, Sieve, clock_time
from serve.ring import NEVER, Ring
from serve.rows import MOST_A_TICK, Rows, blocks_of, make_rows, merge, tick_means, touched_blocks
from serve.store import Store
from tft.schema import DAY_SECONDS, FeatureSchema

MOST_SERVERS = 20_000
ROWS_AT_ONCE = 1 << 18  # loaded or seeded


def kept_ticks(schema: FeatureSchema) -> int:
    """Return how many ticks are kept: the longest history a forecast reads, and a day."""
    return max(schema.context_length, schema.earlier_ticks) + schema.day_ticks


@dataclass(frozen=True)
class Roster:
    """Who is in the state, without the series; S servers."""

    servers: tuple[str, ...]
    """Sorted."""
    profiles: tuple[str | None, ...]
    first_tick: IntArray  # [S] of the first value
    last_tick: IntArray  # [S] of the last row; the one after is the first to forecast
    revision: IntArray  # [S] grows whenever something new of the server is taken in

    @property
    def lengths(self) -> IntArray:
        """Ticks from each server's first to its last, gaps included, [S]."""
        return self.last_tick - self.first_tick + 1


class _Taken(NamedTuple):
    """What became of given rows: their places among those given, and how many were late."""

    fresh: IntArray
    crowded: IntArray
    late: int


class FleetState:
    """Every server's last ticks. Threads may share it; readers never wait for the disk."""

    def __init__(
        self,
        schema: FeatureSchema,
        store: Store,
        clock: Callable[[], float],
        most_servers: int = MOST_SERVERS,
    ) -> None:
        """Load what the store holds.

        Args:
            schema: of the model; the store was opened for the same columns.
            store: nothing else writes ticks to it.
            clock: returns Unix seconds.
            most_servers: rows of further ones are rejected, so that no sender fills the memory.
        """
        self.schema, self.clock = schema, clock
        self.sieve = Sieve(schema)
        self._store = store
        self._ring = Ring(kept_ticks(schema), len(schema.metrics))
        self._directory = Directory(store.servers(), most_servers)
        self._roster: Roster | None = None
        self._revision = 0
        self._revisions = np.zeros(0, np.int64)  # [S] by number
        self._writing = threading.Lock()  # held while rows are taken in
        self._memory = threading.Lock()  # held while memory is read or changed, never for the disk
        self._load()

    @property
    def newest_tick(self) -> int | None:
        """The newest tick of the fleet; None before the first row."""
        return self._ring.newest

    @property
    def memory_bytes(self) -> int:
        """Memory that the series take."""
        return self._ring.num_bytes

    def roster(self) -> Roster:
        """Return who is there, and from when to when."""
        with self._memory:
            if self._roster is None:  # something was taken in since it was last asked for
                known = self._directory.find()
                numbers = _numbers(known)
                columns = self._ring.first, self._ring.last, self._revisions
                first, last, revision = (column[numbers] for column in columns)
                for column in (first, last, revision):
                    column.setflags(write=False)  # shared by all who ask
                names = tuple(server.name for server in known)
                self._roster = Roster(names, _profiles(known), first, last, revision)
            return self._roster

    def fleet(self, servers: Iterable[str] | None = None) -> Fleet:
        """Return a copy of the series of some servers, or of all of them.

        A chunk at a time costs the memory of a chunk. A name that is not in the state, perhaps no
        longer, is left out: the fleet's own `servers` says who is there.
        """
        with self._memory:
            known = self._directory.find(servers)
            numbers = _numbers(known)
            first = self._ring.first[numbers]
            offsets = np.concatenate([[0], np.cumsum(self._ring.last[numbers] - first + 1)])
            values = np.empty((offsets[-1], len(self.schema.metrics)), np.float32)
            for number, (start, stop) in zip(numbers.tolist(), pairwise(offsets), strict=True):
                self._ring.copy(number, values[start:stop])
        return Fleet(
            servers=tuple(server.name for server in known),
            profiles=_profiles(known),
            metrics=self.schema.metric_names,
            static_names=self.schema.static_reals,
            values=values,
            offsets=offsets,
            first_tick=first,
            static=_static(known, self.schema.static_reals),
            step_seconds=self.schema.step_seconds,
        )

    def accept(self, rows: Sequence[Observation], replacing: bool = False) -> Receipt:
        """Take rows in; when this returns, the accepted ones are on disk and in `fleet`.

        Args:
            rows: of any servers and times.
            replacing: they replace other rows held of the same server and time.

        Raises:
            OSError: the store cannot be written; no row was taken in.
            ValueError: the store is damaged.
        """
        with self._writing:
            sound, rejected = self.sieve.sift(rows, self.clock())
            old = sound.ticks < self._oldest_with(sound.ticks)
            days = self._ring.length * self.schema.step_seconds / DAY_SECONDS
            rejected += _refuse(sound.index[old], f"older than the {days:g} days kept")
            sound = sound.only(~old)
            told = self._directory.after(sound.servers, [rows[i] for i in sound.index.tolist()])
            known = np.array([name in told for name in sound.servers], bool)
            full = f"the state is full with {self._directory.most:,} servers"
            rejected += _refuse(sound.index[~known], full)
            sound = sound.only(known)
            numbers = np.array([told[name].number for name in sound.servers], np.int64)
            given = make_rows(numbers, sound.milliseconds, sound.cells)
            taken = self._take(given, told.values(), replacing)
            crowded = f"over {MOST_A_TICK} different rows of its server in one tick"
            rejected += _refuse(sound.index[taken.crowded], crowded)
        return Receipt(
            accepted=len(taken.fresh),
            duplicates=len(rows) - len(rejected) - len(taken.fresh),
            late=taken.late,
            rejected=tuple(sorted(rejected)),
        )

    def seed(self, fleet: Fleet) -> int:
        """Take in a table read with the schema; ticks that hold a row keep what they hold.

        Returns:
            The number of ticks of all servers taken in.

        Raises:
            ValueError: its columns or step are not the schema's, it has too many servers, or it
                reaches over one step ahead of the clock; nothing was taken in.
            OSError: the store cannot be written; what was taken in by then stays.
        """
        self._check_seed(fleet)
        step, end = self.schema.step_seconds, fleet.end_tick
        with self._writing:
            told = self._directory.after(fleet.servers, _described(fleet))
            if len(told) < len(fleet.servers):
                raise ValueError(
                    f"the table has {len(fleet.servers):,} servers, the state is full with "
                    f"{self._directory.most:,}; serve fewer"
                )
            numbers = np.array([told[name].number for name in fleet.servers], np.int64)
            start = max(int(fleet.first_tick.min()), self._oldest_with(np.array([end - 1])))
            chunk, total = max(1, ROWS_AT_ONCE // len(fleet.servers)), 0
            for tick in range(start, end, chunk):
                who, ticks, cells = _ticks_of(fleet, tick, min(tick + chunk, end))
                free = self._holds_none(numbers[who], ticks)
                given = make_rows(numbers[who[free]], ticks[free] * (step * 1000), cells[free])
                total += len(self._take(given, told.values()).fresh)
        return total

    def _load(self) -> None:
        newest = self._store.newest_tick()
        if newest is None:
            return
        known = self._directory.find()
        self._make_room(known)
        self._ring.advance(newest)
        for rows in self._store.rows_since(self._ring.oldest, ROWS_AT_ONCE):
            self._ring.put(*tick_means(rows, self.schema.step_seconds))
        # Where less is kept than before, some servers may have no row left in it.
        gone = [each.number for each in known if self._ring.last[each.number] == NEVER]
        self._store.write(oldest=self._ring.oldest, gone=gone)
        self._directory.forget(gone)

    def _take(self, given: Rows, told: Collection[Server], replacing: bool = False) -> _Taken:
        """Write rows of ticks that are kept, [n], then put them into memory.

        Args:
            given: rows, with the numbers of `told`.
            told: servers as they are after the rows.
            replacing: they replace other rows held of the same server and time.
        """
        step = self.schema.step_seconds
        held = self._store.rows_of(touched_blocks(given, step))
        rows, source, crowded = merge(held, given, step, replacing)
        fresh = source >= 0
        who, ticks = rows["server"][fresh], to_ticks(rows["milliseconds"][fresh], step)
        servers = self._directory.differing(told, {*who.tolist()})
        taken = _Taken(source[fresh], crowded, self._count_late(who, ticks))
        if not servers and not len(who):
            return taken
        newest = self._newest_with(ticks)
        gone = np.setdiff1d(self._ring.outlived(newest), who).tolist()
        self._store.write(servers, blocks_of(rows, fresh, step), self._oldest_with(ticks), gone)
        with self._memory:
            self._make_room(servers)
            self._ring.advance(newest)
            self._ring.put(*tick_means(rows, step))
            self._directory.forget(gone)
            self._directory.update(servers)
            self._roster = None
            self._revision += 1
            self._revisions[who] = self._revision
            self._revisions[_numbers(servers)] = self._revision
        return taken

    def _make_room(self, servers: Iterable[Server]) -> None:
        self._ring.reserve(max((server.number + 1 for server in servers), default=0))
        more = len(self._ring.last) - len(self._revisions)
        self._revisions = np.append(self._revisions, np.zeros(more, np.int64))

    def _count_late(self, servers: IntArray, ticks: IntArray) -> int:
        """Count rows, [n], of an earlier tick than the last one held of their server."""
        known = servers < len(self._ring.last)
        return int(np.count_nonzero(ticks[known] < self._ring.last[servers[known]]))

    def _newest_with(self, ticks: IntArray) -> int:
        """Return the newest tick once these, [n], are there."""
        return max(self._ring.newest or NEVER, int(ticks.max(initial=NEVER)))

    def _oldest_with(self, ticks: IntArray) -> int:
        """Return the first tick that is kept once these, [n], are there."""
        return self._newest_with(ticks) - self._ring.length + 1

    def _holds_none(self, servers: IntArray, ticks: IntArray) -> BoolArray:
        """Tell for pairs of server and tick whether no row of them is held, [n]."""
        none = np.ones(len(servers), bool)
        if self._ring.newest is not None:
            inside = (servers < len(self._ring.last)) & (ticks <= self._ring.newest)
            who, when = servers[inside], ticks[inside]
            none[inside] = self._ring.empty(who, when) & (when != self._ring.last[who])
        return none

    def _check_seed(self, fleet: Fleet) -> None:
        schema = self.schema
        if (fleet.metrics, fleet.static_names) != (schema.metric_names, schema.static_reals):
            raise ValueError(
                f"the table has columns {fleet.metrics} and {fleet.static_names}, the model needs "
                f"{schema.metric_names} and {schema.static_reals}; read it with the model's schema"
            )
        if fleet.step_seconds != schema.step_seconds:
            raise ValueError(
                f"the table's step is {fleet.step_seconds} s, the model's {schema.step_seconds} s"
            )
        newest, now = (fleet.end_tick - 1) * schema.step_seconds, self.clock()
        if newest > now + schema.step_seconds:
            raise ValueError(
                f"the table's last tick is {clock_time(newest)}, over one step ahead of the clock, "
                f"{clock_time(now)}; correct its times, or the clock"
            )


def _refuse(places: IntArray, reason: str) -> list[Rejected]:
    return [Rejected(place, reason) for place in places.tolist()]


def _numbers(servers: Iterable[Server]) -> IntArray:
    return np.array([server.number for server in servers], np.int64)


def _profiles(servers: Iterable[Server]) -> tuple[str | None, ...]:
    return tuple(server.profile.value if server.profile else None for server in servers)


def _static(servers: Sequence[Server], names: Sequence[str]) -> FloatArray:
    """Return static values, [S, R], NaN where none was given."""
    values = [[s.static[n].value if n in s.static else np.nan for n in names] for s in servers]
    return np.array(values, np.float32).reshape(len(servers), len(names))


def _described(fleet: Fleet) -> list[Observation]:
    """Return what a table says of its servers, as of each one's last tick."""
    last = (fleet.first_tick + fleet.lengths - 1) * (fleet.step_seconds * 1000)
    return [
        Observation(name, at, profile, {}, dict(zip(fleet.static_names, static, strict=True)))
        for name, at, profile, static in zip(
            fleet.servers, last.tolist(), fleet.profiles, fleet.static.tolist(), strict=True
        )
    ]


def _ticks_of(fleet: Fleet, start: int, stop: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the server, the tick and the cells of every row from tick `start` to before `stop`.

    A tick in which everything is missing has no row, unless it is its server's last.
    """
    ticks = np.arange(start, stop)[:, None]
    place = ticks - fleet.first_tick  # [ticks, S]
    row, who = np.nonzero((place >= 0) & (place < fleet.lengths))
    ticks, place = ticks[row, 0], place[row, who]
    cells = fleet.values[fleet.offsets[who] + place]
    there = ~np.isnan(cells).all(axis=1) | (place == fleet.lengths[who] - 1)
    return who[there], ticks[there], cells[there]
