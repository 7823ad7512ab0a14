"""A service in a process of its own, asked over HTTP."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 120.0  # seconds in which it starts or ends, however busy the machine is
ADDRESS = re.compile(r"serving at http://127\.0\.0\.1:(\d+)")


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """Asks a service that listens at a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = LIMIT,
    ) -> Answer:
        """Send a request; several pieces of a body go chunked, without a length.

        Raises:
            OSError: it is not there any more, or it went away before it answered.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            more = {"Content-Type": "application/json", **(headers or {})}
            connection.request("GET" if body is None else "POST", target, body, more)
            answer = connection.getresponse()
            head = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, head, answer.read())
        except http.client.HTTPException as error:
            raise ConnectionError(repr(error)) from error
        finally:
            connection.close()

    def feed(self, rows: list[dict[str, Any]]) -> Answer:
        return self.ask("/api/v1/feed", json.dumps({"ticks": rows}).encode())

    def wait_until_ready(self) -> None:
        limit = time.monotonic() + LIMIT
        while self.ask("/readyz").status != 200:
            assert time.monotonic() < limit, self.ask("/readyz").body
            time.sleep(0.05)


class ServingProcess(Connection):
    """`cli.py serve` at a free port of loopback; its standard error goes to a file."""

    def __init__(self, run: Path, log: Path, *options: str | Path, **variables: str) -> None:
        self.log = log
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "cli.py", "serve", run, "--port", "0", *options],
                cwd=ROOT,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            )
        super().__init__(wait_for_port(log, lambda: self.process.poll() is not None))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(LIMIT)


def wait_for_port(log: Path, ended: Callable[[], bool]) -> int:
    """Return the port a service says it listens at."""
    limit = time.monotonic() + LIMIT
    while not (found := ADDRESS.search(log.read_text())):
        assert not ended(), log.read_text()
        assert time.monotonic() < limit, "it does not start"
        time.sleep(0.01)
    return int(found[1])
