"""Whatever is sent, the service answers, says what is wrong, and goes on.

The short form runs with the tests; `FAULT_ROUNDS=50 python -m pytest tests/faults` sends 10,000
hostile requests and as many examples of the OpenAPI document as make 2,000.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("uvicorn", reason="serving needs: pip install 'fleet-tft[serve]'")

from serve.api import create_app
from serve.guard import Guard, Hosts, Limits
from tests.asgi import HOST, JSON, Answer, ask
from tests.builders import tiny_forecaster
from tests.faults.processes import LONG, hostile
from tests.services import START, STEP, Clock, small_service, tick, ticks
from tests.serving import ServingProcess
from tft.bundle import save_forecaster

REQUESTS = 10_000 if LONG else 400
EXAMPLES = 400 if LONG else 3  # of each operation
TOKEN = "correct-horse-battery"
NAMES = [
    "", ".", "..", "../../etc/passwd", "..%2f", "a/b", "a\\b", "web 1", "-rf", "<script>", "'; --",
    "\x00", "a\x00b", "\n", "web-1\n", "\ud800", "\u202e", "é", "💥", "%s%n", "{{7*7}}", "a" * 129,
    "A" * 5000, "null", "NaN", "__proto__", "0", "web-1", "::1", "CON",
]  # fmt: skip
NUMBERS = [
    0, -0.0, -1, 1e308, -1e308, 1e39, 5e-324, 2**63, 10**400, True, None, "1", "NaN", [], {},
    [[[]]], {"a": {"b": 1}},
]  # fmt: skip
TIMES = [
    "2026-01-06T16:00:00Z", "2026-01-06T16:00:00", "2026-13-01T00:00:00Z", "now", "", "2026-W01-1",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+14:00", START, -START, 1e308, 10**30, None, True,
    [], {}, "\ud800",
]  # fmt: skip
LITERALS = [b"NaN", b"Infinity", b"-1e999", b"9" * 4000, b'"\\ud800"', b"[" * 3000, b"\xff", b"{"]
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"]


class Hostile:
    """Makes requests nobody should send."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def row(self) -> Any:
        draw = self.draw
        row = tick(draw.choice(["fuzz-1", "fuzz-2"]), draw.randrange(40))
        for _ in range(draw.randrange(3)):
            change = draw.randrange(6)
            if change == 0:
                row["server_name"] = draw.choice(NAMES + NUMBERS)
            elif change == 1:
                row["timestamp"] = draw.choice(TIMES)
            elif change == 2:
                row["profile"] = draw.choice(NAMES + NUMBERS)
            elif change == 3:
                row["values"] = {draw.choice([*NAMES, "cpu_percent"]): draw.choice(NUMBERS)}
            elif change == 4:
                row[draw.choice(["values", "static", *NAMES])] = draw.choice(NUMBERS)
            else:
                row.pop(draw.choice(list(row)))
        return row if draw.random() < 0.9 else draw.choice(NUMBERS + NAMES)

    def bytes_of(self, content: Any) -> bytes:
        """Write JSON, and damage one in three."""
        draw = self.draw
        text = json.dumps(content).encode()
        if draw.random() > 0.33 or not text:
            return text
        place = draw.randrange(len(text))
        cut = place + draw.randrange(4)
        noise = draw.choice([*LITERALS, draw.randbytes(draw.randrange(20)), b""])
        return text[:place] + noise + text[cut if draw.random() < 0.8 else len(text) :]

    def feed(self) -> tuple[str, str, bytes]:
        rows = [self.row() for _ in range(self.draw.randrange(5))]
        return "POST", "/api/v1/feed", self.bytes_of({"ticks": rows})

    def scenario(self) -> tuple[str, str, bytes]:
        draw = self.draw
        asked: dict[str, Any] = {
            "servers": [draw.choice([*NAMES, "web-1"]) for _ in range(draw.randrange(3))],
            "metrics": {draw.choice([*NAMES, "cpu_percent"]): {"scale": draw.choice(NUMBERS)}},
            "hours": draw.choice(NUMBERS),
        }
        return "POST", "/api/v1/scenario", self.bytes_of(asked)

    def reload(self) -> tuple[str, str, bytes]:
        name = self.draw.choice([*NAMES, *NUMBERS])
        return "POST", "/api/v1/model/reload", self.bytes_of({"name": name})

    def name(self) -> tuple[str, str, bytes]:
        where = self.draw.choice(["servers", "explain", "static", "..", "demo", "feed"])
        return "GET", f"/api/v1/{where}/{self._quoted()}", b""

    def query(self) -> tuple[str, str, bytes]:
        key = self.draw.choice(["server", "metric", "quantile", "horizon_minutes", "x"])
        return "GET", f"/api/v1/forecasts?{key}={self._quoted()}&{key}={self._quoted()}", b""

    def path(self) -> tuple[str, str, bytes]:
        body = self.draw.randbytes(self.draw.randrange(200))
        return self.draw.choice(METHODS), f"/{self._quoted()}", body

    def request(self) -> tuple[str, str, bytes]:
        kinds: list[Callable[[], tuple[str, str, bytes]]] = [
            self.feed, self.feed, self.feed, self.scenario, self.reload, self.name, self.query,
            self.path,
        ]  # fmt: skip
        return self.draw.choice(kinds)()

    def headers(self) -> dict[str, str]:
        draw = self.draw
        headers = {**HOST, **JSON}
        if draw.random() < 0.1:
            headers["host"] = draw.choice(NAMES).encode("utf-8", "replace").decode("latin-1")
        if draw.random() < 0.1:
            headers["content-type"] = draw.choice(["text/plain", "application/xml", "", "x" * 999])
        if draw.random() < 0.1:
            headers["content-length"] = draw.choice(["-1", "1e9", "99999999999", "x", ""])
        return headers

    def _quoted(self) -> str:
        name = self.draw.choice(NAMES)
        raw = name.encode("utf-8", "surrogatepass")
        return quote(raw if self.draw.random() < 0.8 else self.draw.randbytes(9), safe="")


def test_the_service_goes_on_whatever_it_is_sent(tmp_path: Path) -> None:
    clock = Clock(START + 40 * STEP + 60)
    service = small_service(tmp_path, clock, models=tmp_path)
    # Every request comes from one address here; how often it may ask is tested elsewhere.
    guard = Guard(create_app(service), Hosts("127.0.0.1"), None, Limits(requests_per_second=1e9))
    rows = json.dumps({"ticks": ticks(["web-1"], range(40))}).encode()
    assert ask(guard, "/api/v1/feed", "POST", [rows], {**HOST, **JSON}).status == 200
    assert service.turn()
    before = ask(guard, "/api/v1/servers/web-1").json()["server"]
    made, statuses = Hostile(1), Counter[int]()
    for number in range(REQUESTS):
        method, target, body = made.request()
        answer = ask(guard, target, method, [body[:7], body[7:]], made.headers())
        statuses[answer.status] += 1
        check(answer, (number, method, target, body[:300]))
    assert {200, 400, 404, 409, 413, 415, 421, 422} <= set(statuses), statuses
    service.turn()
    after = ask(guard, "/api/v1/servers/web-1").json()["server"]
    assert after["history"] == before["history"], "and nobody's ticks were touched"
    assert ask(guard, "/readyz").status == 200
    assert ask(guard, "/api/v1/fleet").json()["servers"]
    service.store.close()
    hostile.update({"requests": REQUESTS, **{f"answered {k}": n for k, n in statuses.items()}})


def check(answer: Answer, sent: object) -> None:
    """Every answer is one that the document names, and in its form."""
    assert answer.status < 500, (answer, sent)
    if answer.status == 200:
        return
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", sent
    assert answer.body.isascii() and document["status"] == answer.status, sent
    assert document["detail"] and len(answer.body) < 20_000, sent
    assert "Traceback" not in document["detail"], sent


def test_schemathesis_finds_nothing_in_the_document(tmp_path: Path) -> None:
    """It makes requests that fit the OpenAPI document and ones that do not, of a real process."""
    pytest.importorskip("schemathesis", reason="a development dependency, pip install schemathesis")
    save_forecaster(tiny_forecaster(), tmp_path / "models" / "run" / "model")
    process = ServingProcess(
        tmp_path / "models" / "run", tmp_path / "log", "--models", tmp_path / "models",
        "--token-env", "A_TOKEN", A_TOKEN=TOKEN,
    )  # fmt: skip
    token = {"Authorization": f"Bearer {TOKEN}"}
    try:
        newest = int(time.time()) // STEP - 1
        servers = ("0", "00", "A", "a", "_", "web-1")  # names Schemathesis comes upon by itself
        rows = [
            tick(server, 0, timestamp=(newest - ago) * STEP)
            for ago in range(30)
            for server in servers
        ]
        body = json.dumps({"ticks": rows}).encode()
        assert process.ask("/api/v1/feed", body, token).json()["accepted"] == len(rows)
        said = schemathesis(process.port, tmp_path)
        hostile["examples"] += int(re.search(r"([\d,]+) generated", said)[1].replace(",", ""))  # type: ignore[index]
        server = process.ask("/api/v1/servers/web-1", headers=token).json()["server"]
        assert server["status"] == "forecast"
        assert process.ask("/readyz", headers=token).status == 200
        assert "Traceback" not in process.log.read_text()
    finally:
        assert process.stop() == 0


def schemathesis(port: int, folder: Path) -> str:
    """Run it against a service and return what it says."""
    command = [
        Path(sys.executable).with_name("schemathesis"), "run",
        f"http://127.0.0.1:{port}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}",
        "--phases", "examples,coverage,fuzzing" if LONG else "fuzzing",
        "--max-examples", str(EXAMPLES), "--seed", "1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout
