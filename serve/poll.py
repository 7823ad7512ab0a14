"""A source that is asked for ticks, such as a Prometheus, instead of sending them."""

import logging
import threading
from collections.abc import Callable, Sequence

from data.prometheus import Fetcher
from serve.names import is_name
from serve.observations import Observation, Receipt
from tft.schema import FeatureSchema

log = logging.getLogger(__name__)

PARTS = 10  # of a step: how often is asked
OVERLAP = 3  # ticks asked for again, as samples may reach the source late
AT_ONCE_SECONDS = 6 * 3_600  # of history in one question

Fetch = Callable[[float, float], Sequence[Observation]]
"""From the times after which and up to which ticks ended, Unix seconds, to their rows.

It may raise InterruptedError once it is to ask nothing more.
"""


class Poller:
    """Asks a source for what is new, in a thread of its own, and hands it to the state."""

    def __init__(
        self,
        fetch: Fetch,
        take: Callable[[Sequence[Observation]], Receipt],
        newest_tick: Callable[[], int | None],
        clock: Callable[[], float],
        step_seconds: int,
        history_seconds: float,
        stopping: threading.Event | None = None,
    ) -> None:
        """Bind a source to a state.

        Args:
            fetch: asks the source.
            take: takes rows in.
            newest_tick: of the state; what came before it is there.
            clock: Unix seconds.
            step_seconds: between ticks.
            history_seconds: how far back an empty state is filled.
            stopping: is set by `stop`, for a source that watches it.
        """
        self.fetch, self.take, self.newest_tick = fetch, take, newest_tick
        self.clock, self.step_seconds, self.history_seconds = clock, step_seconds, history_seconds
        self.error: str | None = None  # of the last question, None where it was answered
        self._stopping = stopping or threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the request it may have sent."""
        self._stopping.set()
        self._thread.join()

    def turn(self) -> None:
        """Ask for everything up to now, a part of history after the other."""
        now, newest = self.clock(), self.newest_tick()
        since = now - self.history_seconds
        if newest is not None:
            since = max(since, (newest - OVERLAP + 1) * float(self.step_seconds))
        try:
            while since < now and not self._stopping.is_set():
                until = min(now, since + AT_ONCE_SECONDS)
                rejected = self.take(self.fetch(since, until)).rejected
                for each in rejected[:1]:
                    log.warning("%d rows of the source refused: %s", len(rejected), each.reason)
                since = until
        except InterruptedError:
            pass  # by `stop`
        except (OSError, ValueError) as error:
            log.warning("the source was not read, it is asked again: %s", error)
            self.error = f"the source was not read: {error}"
        else:
            self.error = None

    def _run(self) -> None:
        self.turn()
        while not self._stopping.wait(self.step_seconds / PARTS):
            self.turn()


def from_prometheus(fetcher: Fetcher, schema: FeatureSchema) -> Fetch:
    """Return what asks a Prometheus.

    Raises:
        ValueError: its queries are not for the model's metrics and step.
    """
    asked, step = fetcher.queries, schema.step_seconds
    if asked.step_seconds != step:
        raise ValueError(
            f"the queries are for steps of {asked.step_seconds} s, the model's are of {step} s; "
            "set step_seconds in the file of queries"
        )
    missing = [name for name in schema.metric_names if name not in asked.metrics]
    unknown = [name for name in asked.metrics if name not in schema.metric_names]
    if missing or unknown:
        raise ValueError(
            f"the model sees {', '.join(schema.metric_names)}, the queries give "
            f"{', '.join(asked.metrics)}; name a file with a query for each with --queries"
        )
    odd: set[str] = set()

    def fetch(since: float, until: float) -> list[Observation]:
        rows = fetcher.latest(since, until)
        for name in {row.server for row in rows if not is_name(row.server)} - odd:
            odd.add(name)
            log.warning("server %a is left out, its name has other characters than allowed", name)
        return [
            Observation(
                row.server,
                row.tick * step * 1000,
                row.profile if is_name(row.profile) else None,
                row.values,
            )
            for row in rows
            if row.server not in odd
        ]

    return fetch
