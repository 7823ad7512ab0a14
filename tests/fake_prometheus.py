"""A Prometheus small enough to misbehave on request; the real one is in test_prometheus_real.py."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest

from data.prometheus import Client, Endpoint, Fetcher, Queries
from data.reading import TableSpec
from tests.tables import MIDNIGHT

QUERIES = Queries({"load": "avg_over_time(load[$range])", "queue": "avg_over_time(queue[$range])"})
SPEC = TableSpec(targets=("load",), observed=("queue",))
FIRST = MIDNIGHT // 300
DAY = 86_400
Labels = tuple[tuple[str, str], ...]
Handler = BaseHTTPRequestHandler
Fault = Callable[[Handler], None]


class FakePrometheus:
    """Answers `function(metric[...ms])` with the mean of a range's samples, after its faults."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[Labels, dict[int, float]]] = {}
        self.faults: list[Fault] = []
        """What the next range queries meet, each once."""
        self.queries: list[dict[str, str]] = []
        """Every range query, faulty ones included."""
        self.headers: list[dict[str, str]] = []
        self.now = 4e9
        self.left_open = False
        self.most_points = 11_000
        self.warnings: list[str] = []
        self.url = ""

    def add(self, metric: str, samples: dict[int, float], **labels: str) -> None:
        """Hold samples by Unix milliseconds."""
        key = tuple(sorted(labels.items()))
        self.samples.setdefault(metric, {}).setdefault(key, {}).update(samples)

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        """Return status and document."""
        if path.endswith("/query"):
            probe = 2.0 if self.left_open else 3.0
            value = self.now if form["query"] == "time()" else probe
            return 200, success({"resultType": "scalar", "result": [self.now, str(value)]})
        times = np.arange(
            round(float(form["start"]) * 1000),
            round(float(form["end"]) * 1000) + 1,
            int(form["step"]) * 1000,
        )
        if len(times) > self.most_points:
            return 400, failure("bad_data", "exceeded maximum resolution of 11,000 points")
        match = re.fullmatch(r"\w+\((\w+)\[(\d+)ms\]\)", form["query"])
        if match is None:
            return 400, failure("bad_data", "1:1: parse error: this fake knows f(m[$range])")
        result = []
        for labels, samples in self.samples.get(match[1], {}).items():
            at, values = np.array(list(samples)), np.array(list(samples.values()))
            points = []
            for time in times.tolist():
                after = at > time - int(match[2]) - (0 if self.left_open else 1)
                seen = values[after & (at <= time)]
                if len(seen):
                    points.append([time / 1000, str(float(seen.mean()))])
            if points:
                result.append({"metric": dict(labels), "values": points})
        return 200, success({"resultType": "matrix", "result": result}, self.warnings)


def success(data: Any, warnings: Sequence[str] = ()) -> dict[str, Any]:
    return {"status": "success", "data": data, "warnings": warnings}


def failure(kind: str, text: str) -> dict[str, Any]:
    return {"status": "error", "errorType": kind, "error": text}


def send(handler: Handler, status: int, body: Any, length: int = 0, **headers: str) -> None:
    """Send a document, or text as it is; `length` says more bytes than there are."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(length or len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, body: Any = "no", **headers: str) -> Fault:
    """Answer with a status."""
    return lambda handler: send(handler, code, body, **headers)


@contextmanager
def running(fake: FakePrometheus) -> Iterator[FakePrometheus]:
    """Serve on a free port of this machine."""

    class OneConnection(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            length = int(self.headers["Content-Length"])
            form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
            fake.headers.append(dict(self.headers))
            if self.path.endswith("/query_range"):
                fake.queries.append(form)
                if fake.faults:
                    return fake.faults.pop(0)(self)
            return send(self, *fake.answer(self.path, form))

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

    with (
        pytest.MonkeyPatch.context() as patch,
        ThreadingHTTPServer(("127.0.0.1", 0), OneConnection) as server,
    ):
        patch.setenv("no_proxy", "127.0.0.1")
        server.daemon_threads = True
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


class Told:
    """A client of a fake, what it said and how long it paused; nothing really waits."""

    def __init__(self, fake: FakePrometheus, **endpoint: object) -> None:
        self.lines: list[str] = []
        self.pauses: list[float] = []
        self.client = Client(
            replace(Endpoint(fake.url), **endpoint), self.lines.append, self.pauses.append
        )
        self.fetcher = Fetcher(self.client, QUERIES)


def every(seconds: int, count: int, start: int = MIDNIGHT) -> dict[int, float]:
    """Return samples by millisecond, each another value, exact in float32."""
    return {(start + n * seconds) * 1000: n / 4 for n in range(count)}


def two_servers(fake: FakePrometheus) -> None:
    """Two and a half days of two servers; one misses an hour and one of its metrics a while."""
    whole = every(300, 720)
    gap = {at: v for at, v in whole.items() if not 100 <= at // 300_000 - FIRST < 112}
    fake.add("load", whole, instance="a:9100")
    fake.add("load", gap, instance="b:9100")
    fake.add("queue", {at: v + 1 for at, v in list(gap.items())[50:]}, instance="b:9100")
