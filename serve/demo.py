"""The live demo: a simulated fleet in accelerated time, told to the real service over HTTP.

The fleet is the built-in one going on where its table ends: nothing the model is shown here was
there to be trained on. The service knows nothing of the simulation but what is posted to it.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from data.synthetic import FleetSpec
from data.synthetic.simulator import METRICS
from serve.api import create_app
from serve.commands import open_service
from serve.demo_routes import demo_router
from serve.live_fleet import LiveFleet
from serve.run import listen, serve_until_stopped
from serve.state import kept_ticks
from tft.schema import FeatureSchema

HOST = "127.0.0.1"  # the demo is for who starts it
BEGIN_HOURS = 8  # after the table's end: a working day is about to begin
ROWS_AT_ONCE = 10_000
TIMEOUT_SECONDS = 60.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to loopback


class FastClock:
    """A clock that runs faster than life, but never past what has been allowed."""

    def __init__(
        self, start: float, speed: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Stand still at a time until more is allowed.

        Args:
            start: Unix seconds.
            speed: seconds of this clock in one second.
            monotonic: the clock it is driven by.
        """
        self.speed, self._monotonic = speed, monotonic
        self._now = self._until = start
        self._last = monotonic()
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return Unix seconds."""
        with self._lock:
            then, self._last = self._last, self._monotonic()
            self._now = min(self._now + (self._last - then) * self.speed, self._until)
            return self._now

    def allow(self, until: float) -> None:
        """Let it run on until some time."""
        self()  # what has passed until now was not allowed to run on
        with self._lock:
            self._until = max(self._until, until)

    def wait(self, until: float, stop: threading.Event) -> None:
        """Return when a time has come, or when asked to stop."""
        while not stop.is_set() and (left := (until - self()) / self.speed) > 0:
            stop.wait(min(left, 1.0))


class Feeder(threading.Thread):
    """Posts what the fleet reports: days of history at once, then every tick in its time."""

    def __init__(
        self,
        fleet: LiveFleet,
        clock: FastClock,
        address: str,
        say: Callable[[str], None],
        show: Callable[[str], Any] | None = None,
    ) -> None:
        """Bind what is fed to whom.

        Args:
            fleet: at the first tick of the history.
            clock: the service's, standing at the end of the history.
            address: of the service.
            say: told how far it is.
            show: called with the address when there is something to see.
        """
        super().__init__(name="feeder", daemon=True)
        self.fleet, self.clock, self.address, self.say = fleet, clock, address, say
        self.show = show
        self.error: Exception | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Feed until stopped."""
        try:
            self._fill()
            while not self._stopping.is_set():
                self._tick()
        except (OSError, ValueError) as error:
            if not self._stopping.is_set():
                self.error = error
                self.say(f"the simulated fleet has stopped: {error}")

    def stop(self) -> None:
        """End after the post that may be under way."""
        self._stopping.set()
        self.join()

    def _fill(self) -> None:
        """Post what has passed by the clock."""
        rows: list[dict[str, Any]] = []
        while self.fleet.time < self.clock() and not self._stopping.is_set():
            rows += self.fleet.step()
            if len(rows) >= ROWS_AT_ONCE:
                self._post(rows)
                rows = []
        self._post(rows)
        self.say(f"the simulated fleet is running; open {self.address}")
        if self.show is not None:
            # A browser in the terminal returns when it is closed.
            threading.Thread(target=self.show, args=(self.address,), daemon=True).start()

    def _tick(self) -> None:
        """Post the next tick when its step has passed; time waits for a service that is late."""
        step = self.fleet.spec.step_seconds
        end = self.fleet.time + step
        self.clock.allow(end + step)
        self.clock.wait(end, self._stopping)
        if not self._stopping.is_set():
            self._post(self.fleet.step())

    def _post(self, rows: list[dict[str, Any]]) -> None:
        """Feed rows.

        Raises:
            OSError: the service cannot be reached.
            ValueError: it does not take them.
        """
        if not rows:
            return
        request = urllib.request.Request(
            f"{self.address}/api/v1/feed",
            json.dumps({"ticks": rows}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with DIRECT.open(request, timeout=TIMEOUT_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"the service says {error.code}: {error.read()!r}") from error
        if answer["rejected"]:
            raise ValueError(f"the service rejects {answer['rejected'][0]['reason']}")


def run_demo(
    find_model: Callable[[], Path],
    port: int,
    tick_seconds: float,
    say: Callable[[str], None],
    rules: Path | None = None,
    spec: FleetSpec | None = None,
    show: Callable[[str], Any] | None = None,
) -> None:
    """Serve the simulated fleet until stopped.

    Args:
        find_model: returns the run directory of the demo's model, trained first if it must be.
        port: to listen at.
        tick_seconds: wall-clock time of a simulated tick.
        say: told what is going on, a line at a time.
        rules: file of alert rules.
        spec: the fleet; it starts to be served where its `hours` end. None: the built-in one.
        show: called with the page's address when there is something to see.

    Raises:
        ValueError: the model is of another kind of fleet, or the port cannot be had.
    """
    spec = spec or FleetSpec()
    listening = listen(HOST, port)
    with listening, TemporaryDirectory(prefix="fleet-demo-") as state:
        run = find_model()
        fleet = LiveFleet(spec)
        now = fleet.time + (spec.hours + BEGIN_HOURS) * 3600
        clock = FastClock(now, spec.step_seconds / tick_seconds)
        service = open_service(run, Path(state), rules, clock=clock)
        check_model(service.schema, spec.step_seconds)
        begin = now - kept_ticks(service.schema) * spec.step_seconds
        while fleet.time < begin:
            fleet.step()  # nobody is told what no forecast would look at
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        feeder = Feeder(fleet, clock, address, say, show)
        app = create_app(service, routers=[demo_router(fleet, tick_seconds)])
        feeder.start()  # its first post waits until the socket is served
        try:
            serve_until_stopped(app, listening, HOST, say=say)
        finally:
            feeder.stop()


def check_model(schema: FeatureSchema, step_seconds: int) -> None:
    """Refuse a model the simulated fleet cannot feed.

    Raises:
        ValueError: it sees other metrics, or ticks of another length.
    """
    differing = {*schema.metric_names, *schema.static_reals} ^ {*METRICS}
    if differing:
        raise ValueError(
            f"the model and the simulated fleet differ in {', '.join(sorted(differing))}; the demo "
            "needs a model trained on the built-in fleet"
        )
    if schema.step_seconds != step_seconds:
        raise ValueError(
            f"the model ticks every {schema.step_seconds} s, the simulated fleet every "
            f"{step_seconds} s; the demo needs one trained on the built-in fleet"
        )
