"""A stand-in for the service under the dashboard: its HTTP contract, states made to order."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "serve" / "dashboard"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STEP, HORIZON, DAY = 300, 96, 288
NOW = 1_770_192_330  # 2026-02-04T08:05:30Z
METRICS = ("cpu_percent", "memory_percent", "disk_percent", "load_average")
LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
SPREADS = (-2.05, -1.28, -0.67, 0.0, 0.67, 1.28, 2.05)
THRESHOLDS: dict[str, float | None] = {
    "cpu_percent": 90.0, "memory_percent": 90.0, "disk_percent": 90.0, "load_average": None,
}  # fmt: skip
PROFILES = {"ppdb": "database", "ppweb": "web_api", "ppml": "ml_compute"}
Json = dict[str, Any]


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """What the fake service knows; tests change it as they go."""

    servers: tuple[str, ...] = tuple(f"{prefix}000{n}" for prefix in PROFILES for n in range(1, 6))
    trouble: dict[str, float] = field(default_factory=dict)
    """By server: points of memory gained an hour."""
    cold: set[str] = field(default_factory=set)
    reason: str = "14 ticks of history, 72 are needed for a forecast"
    age_seconds: float = 30.0
    failing: tuple[int, str] | None = None
    token: str | None = None
    demo: bool = False
    scenario: tuple[str, str] = ("healthy", "fleet")
    asked: list[str] = field(default_factory=list)
    """Request lines, in order."""
    said: list[Json] = field(default_factory=list)
    """Bodies of POST requests."""

    def answer(self, path: str, body: Json | None) -> tuple[int, Json]:
        """Return status and content of a path under /api/v1."""
        if self.failing is not None:
            status, detail = self.failing
            return status, {"title": "no", "status": status, "detail": detail}
        name = path.rpartition("/")[2]
        routes: dict[str, Callable[[], Json]] = {
            "/fleet": self.fleet,
            "/alerts": self.alerts,
            "/model": lambda: MODEL,
            "/scenario": lambda: self.what_if(body or {}),
        }
        if self.demo:
            routes["/demo/scenario"] = lambda: self.switch(body)
        for known in self.servers:
            routes[f"/servers/{known}"] = partial(self.server, known)
            routes[f"/explain/{known}"] = partial(explain, known)
        if path not in routes:
            return 404, {"title": "Not Found", "status": 404, "detail": f"no server {name!r}"}
        return 200, {**self.head(), **routes[path]()}

    def head(self) -> Json:
        newest = NOW - self.age_seconds - STEP
        return {
            "now": rfc3339(NOW),
            "model": {"hash": "0a1b2c3d4e5f", "trained_until": "2026-01-29T00:00:00Z"},
            "data": {
                "newest_tick": rfc3339(newest) if self.servers else None,
                "age_seconds": self.age_seconds if self.servers else None,
                "stale": self.age_seconds > 900 or not self.servers,
            },
        }

    def switch(self, body: Json | None) -> Json:
        if body is not None:
            self.scenario = (body["scenario"], body["target"])
            hit = [s for s in self.servers if body["target"] in ("fleet", f"server:{s}")]
            rates = {"healthy": 0.0, "degrading": 5.0, "critical": 20.0, "cascade": 12.0}
            rate = rates[body["scenario"]]
            self.trouble = {s: rate / (1 + i / 2) for i, s in enumerate(hit)} if rate else {}
        return {
            "scenario": self.scenario[0],
            "target": self.scenario[1],
            "since": rfc3339(NOW - 1200),
            "speed": 150.0,
            "tick_seconds": 1.0,
            "scenarios": [
                {"name": name, "what": f"What {name} does."}
                for name in ("healthy", "degrading", "critical", "cascade")
            ],
            "targets": ["fleet", "profile:database", *(f"server:{s}" for s in self.servers)],
        }

    def series(self, server: str, metric: str) -> tuple[list[float], Json]:
        """Return a day of history and the quantiles ahead, smooth and always the same."""
        shift = sum(map(ord, server + metric)) % 97
        level = {"cpu_percent": 38, "memory_percent": 52, "disk_percent": 47, "load_average": 4}[
            metric
        ]
        scale = level / 4
        rate = self.trouble.get(server, 0.0) if metric == "memory_percent" else 0.0

        def middle(tick: int) -> float:
            turn = 2 * math.pi * (tick + 3 * shift) / DAY
            wave = math.sin(turn) + 0.25 * math.sin(7 * turn) + 0.08 * math.sin(31 * turn)
            return level + shift / 10 + scale * wave / 2 + rate * max(tick + 48, 0) / 12

        top = math.inf if metric == "load_average" else 100.0
        past = [round(min(middle(t), top), 2) for t in range(-DAY, 0)]
        ahead = {
            str(q): [
                round(min(max(middle(t) + z * scale * 0.12 * (1 + t / 20) ** 0.7, 0), top), 3)
                for t in range(HORIZON)
            ]
            for q, z in zip(LEVELS, SPREADS, strict=True)
        }
        return past, ahead

    def breach(self, server: str, metric: str) -> Json | None:
        threshold = THRESHOLDS[metric]
        if threshold is None or server in self.cold:
            return None
        _, ahead = self.series(server, metric)
        over = [i for i, value in enumerate(ahead["0.5"]) if value >= threshold]
        at = self.origin + over[0] * STEP if over else None
        return {
            "metric": metric,
            "threshold": threshold,
            "probability": self.chance(server, metric, HORIZON),
            "first_breach": None if at is None else rfc3339(at),
            "lead_seconds": None if at is None else at - NOW,
            "peak": {q: max(ahead[q]) for q in ("0.5", "0.9")},
        }

    def over(self, server: str) -> list[str]:
        latest = {metric: self.series(server, metric)[0][-1] for metric in METRICS}
        return [m for m, limit in THRESHOLDS.items() if limit is not None and latest[m] >= limit]

    def chance(self, server: str, metric: str, steps: int) -> float:
        """Return the highest level's complement that reaches the threshold: crude, but ordered."""
        threshold, ahead = THRESHOLDS[metric], self.series(server, metric)[1]
        if threshold is None:
            return 0.0
        peak = {q: max(ahead[str(q)][:steps]) for q in LEVELS}
        width = max(peak[0.98] - peak[0.5], 1e-6) / 2.05
        return round(0.5 * math.erfc((threshold - peak[0.5]) / width / math.sqrt(2)), 4)

    @property
    def origin(self) -> int:
        return int((NOW - self.age_seconds) // STEP) * STEP

    def line(self, server: str) -> Json:
        cold = server in self.cold
        return {
            "name": server,
            "profile": PROFILES[server[:-4]],
            "status": "cold_start" if cold else "forecast",
            "reason": self.reason if cold else None,
            "stale": self.age_seconds > 900,
            "last_tick": rfc3339(self.origin - STEP),
        }

    def fleet(self) -> Json:
        rows = []
        for server in self.servers:
            by_hour = [
                max(self.chance(server, metric, 12 * hour) for metric in METRICS)
                for hour in range(1, 9)
            ]
            breaches = [b for m in METRICS if (b := self.breach(server, m)) and b["first_breach"]]
            first = min(breaches, key=lambda b: b["first_breach"], default=None)
            cold = server in self.cold
            rows.append(
                {
                    **self.line(server),
                    "origin": None if cold else rfc3339(self.origin),
                    "over": [] if cold else self.over(server),
                    "worst_metric": None if cold else "memory_percent",
                    "chance_by_hour": None if cold else by_hour,
                    "first_breach": first and {
                        "metric": first["metric"], "at": first["first_breach"],
                        "probability": first["probability"],
                    },
                }
            )  # fmt: skip
        last = "9999"
        rows.sort(key=lambda r: (not r["over"], (r["first_breach"] or {"at": last})["at"]))
        return {"metrics": list(METRICS), "hours": list(range(1, 9)), "servers": rows}

    def alerts(self) -> Json:
        found = self.firing()
        how = "Measured by evaluate."
        return {
            "alerts": found, "measured": MEASURED, "how_measured": how,
            "not_watched": ["load_average"],
        }  # fmt: skip

    def firing(self) -> list[Json]:
        found = []
        for server in self.servers:
            for metric in METRICS:
                breach = self.breach(server, metric)
                if breach and breach["first_breach"]:
                    found.append(
                        {
                            "server": server, "metric": metric, "state": "firing",
                            "since": rfc3339(NOW - 900), "threshold": breach["threshold"],
                            "gate": 0.5, "first_breach": breach["first_breach"],
                            "lead_seconds": breach["lead_seconds"],
                            "probability": breach["probability"], "peak": breach["peak"]["0.5"],
                        }
                    )  # fmt: skip
        return found

    def server(self, server: str) -> Json:
        cold, pairs = server in self.cold, {m: self.series(server, m) for m in METRICS}
        gap = [None if 100 <= i < 112 else 1 for i in range(DAY)]
        entry = {
            **self.line(server),
            "first_tick": None if cold else rfc3339(self.origin),
            "metrics": [] if cold else [
                {"metric": m, "threshold": THRESHOLDS[m], "quantiles": pairs[m][1]} for m in METRICS
            ],
            "history": {
                "first_tick": rfc3339(self.origin - DAY * STEP),
                "step_seconds": STEP,
                "values": {
                    m: [v if seen else None for v, seen in zip(pairs[m][0], gap, strict=True)]
                    for m in METRICS
                },
            },
            "breaches": [b for m in METRICS if (b := self.breach(server, m))],
            "alerts": [a for a in self.firing() if a["server"] == server],
        }  # fmt: skip
        return {"server": entry}

    def what_if(self, body: Json) -> Json:
        self.said.append(body)
        servers = []
        for server in body["servers"]:
            metrics = []
            for metric in METRICS:
                ahead = {q: self.series(server, metric)[1][q] for q in ("0.1", "0.5", "0.9")}
                change = body["metrics"].get(metric, {"scale": 1, "shift": 0})
                moved = {
                    q: [v * change["scale"] + change["shift"] for v in values]
                    for q, values in ahead.items()
                }
                metrics.append({"metric": metric, "unchanged": ahead, "scenario": moved})
            outside = [m for m, c in body["metrics"].items() if c["scale"] > 1.5]
            entry = {"outside_training_range": outside, "metrics": metrics}
            servers.append({"name": server, "stale": self.age_seconds > 900, **entry})
        return {
            "what_this_is": "How the model responds, not what would happen.",
            "servers": servers,
        }


def explain(server: str) -> Json:
    def weights(**by_name: float) -> list[Json]:
        return [{"variable": name, "weight": weight} for name, weight in by_name.items()]

    return {
        "server": server,
        "origin": rfc3339(NOW),
        "past": weights(cpu_percent=0.41, memory_percent=0.32, disk_percent=0.18, hour_of_day=0.09),
        "future": weights(hour_of_day=0.7, day_of_week=0.3),
        "static": weights(profile=0.6, server=0.4),
        "attention": [
            {"lag_minutes": 5 * lag, "weight": math.exp(-lag / 40) + 0.3 * (280 < lag < 296)}
            for lag in range(1, 384)
        ],
        "what_this_is": "Weights the network gave its inputs, not what caused what.",
    }


MEASURED = {
    metric: {
        "precision": 0.71, "recall": 0.83, "median_lead_seconds": 9900.0,
        "false_per_server_week": 0.4, "alarm_at": 0.5, "threshold": 90.0, "breaches": 48,
    }
    for metric in METRICS[:3]
}  # fmt: skip
MODEL: Json = {
    "current": {
        "name": "model", "hash": "0a1b2c3d4e5f", "trained_until": "2026-01-29T00:00:00Z",
        "trained_servers": 20, "parameters": 93_854, "quantiles": list(LEVELS), "context": 288,
        "horizon": 96, "step_seconds": 300,
        "metrics": [
            {"name": name, "lower": 0.0, "upper": None if high is None else 100.0, "role": role}
            for name, high, role in (
                *((name, THRESHOLDS[name], "target") for name in METRICS),
                ("network_in_mbs", None, "observed"),
            )
        ],
    },
    "previous": None,
    "measured": {
        "data": "training", "windows": 2048, "servers_known": 20, "servers_new": 0,
        "first_origin": "2026-01-29T00:00:00Z", "last_origin": "2026-02-03T16:00:00Z",
        "metrics": {
            name: {
                "wql": 0.126, "mae": 5.7, "coverage": 0.8, "observed": 194_980,
                "naive_wql": {"last_value": 0.307, "window_quantiles": 0.228},
            }
            for name in (*METRICS, "mean")
        },
    },
    "live": {
        m: {"day": {"coverage": 0.79, "quantile_loss": 0.131, "forecasts": 480}, "week": None}
        for m in METRICS
    },
    "drift": [],
    "rules": {
        "gate": 0.5, "nearest_minutes": 30.0, "farthest_minutes": 480.0, "pending_ticks": 2,
        "clear_ticks": 6, "clear_margin": 0.25, "server_ceilings": {}, "exclude": [],
        "ceilings": {"cpu_percent": 90.0, "memory_percent": 90.0, "disk_percent": 90.0},
        "profile_ceilings": {"database": {"memory_percent": 97.0}},
        "sources": {"cpu_percent": "90, as the metric is a percentage"},
    },
}  # fmt: skip


@contextmanager
def fake_service(world: World) -> Iterator[str]:
    """Serve a world and the dashboard on a free port of loopback; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.reply(None)

        def do_POST(self) -> None:  # noqa: N802
            length = int(self.headers["Content-Length"])
            self.reply(json.loads(self.rfile.read(length)))

        def reply(self, body: Json | None) -> None:
            world.asked.append(f"{self.command} {self.path}")
            api = "/api/v1"
            if self.path.startswith(api):
                given = self.headers.get("Authorization")
                if world.token is not None and given != f"Bearer {world.token}":
                    status, answer = (
                        401,
                        {"title": "Unauthorized", "status": 401, "detail": "a token"},
                    )
                else:
                    status, answer = world.answer(self.path.removeprefix(api), body)
                kind = "application/json" if status == 200 else "application/problem+json"
                self.send(status, kind, json.dumps(answer).encode())
                return
            name = "index.html" if self.path == "/" else self.path.removeprefix("/static/")
            file = (DASHBOARD / name).resolve()
            if not file.is_file() or DASHBOARD not in file.parents:
                self.send(404, "text/plain", b"no such file")
                return
            content = file.read_bytes()
            if world.demo and name == "index.html":
                content = content.replace(b'<html lang="en">', b'<html lang="en" data-demo>')
            self.send(200, TYPES.get(file.suffix, "text/plain"), content)

        def send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", CSP)
            self.end_headers()
            with suppress(ConnectionError):  # a page that was left does not wait for its answers
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
