"""How the service answers under load, and how long a tick takes: `python -m benchmarks.serve`.

A service in a process of its own knows 160 servers and a month of each. For a minute it is asked
200 times a second, from another process on the same cores, for what a page and a Prometheus ask
for. Its clock runs so fast that a tick of the whole fleet comes every few seconds, and is forecast.
Requests start on time whether or not earlier ones were answered, and their latency counts from
then.

Then ticks by themselves, in processes of their own: taking in the rows of all servers, forecasting
them, and making what readers are told. The forecaster has the default sizes and random weights.

S servers, N ticks, M metrics.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.inference import SCHEMA, random_forecaster
from benchmarks.inference import verdict as told
from benchmarks.machine import ROOT, measured_on
from benchmarks.memory import forget_peak, peak_memory
from benchmarks.sizes import parse_sizes
from data.fleet import Fleet
from serve.commands import STATE, make_room_for_requests, open_service
from tft.bundle import save_forecaster
from tft.files import write_atomically

DAYS = SCHEMA.days_before + 1  # of history: what the model looks back on, and a day that is kept
CONNECTIONS = 32  # kept open, as a few pages and a proxy keep them
STEP = SCHEMA.step_seconds
TICKS = 3  # of each fleet measured by itself
ROWS_AT_ONCE = 10_000
MIX = {  # in a hundred requests
    "/api/v1/fleet": 20,
    "/api/v1/forecasts?server={server}": 25,
    "/api/v1/forecasts?server={server}&metric=cpu_percent&horizon_minutes=120": 8,
    "/api/v1/servers/{server}": 20,
    "/api/v1/alerts": 10,
    "/api/v1/forecasts": 5,
    "/api/v1/model": 3,
    "/api/v1/explain/{server}": 1,
    "/metrics": 3,
    "/readyz": 5,
}
LATENCY_GOAL, TICK_GOAL, LARGE_GOAL = 0.050, 1.0, 300.0  # seconds
GOAL_SERVERS, LARGE = 160, 10_000
HEADER = f"{'request':<74}{'count':>7}{'p50 ms':>9}{'p99 ms':>9}{'worst ms':>10}"


@click.command()
@click.option("--servers", type=click.IntRange(1), default=GOAL_SERVERS, show_default=True)
@click.option("--rate", type=click.IntRange(1), default=200, show_default=True, help="Requests/s.")
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True)
@click.option("--tick-every", type=float, default=5.0, show_default=True, help="Seconds.")
@click.option("--ticks-of", "sizes", default="160,10000", callback=parse_sizes, show_default=True)
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
@click.option("--one", type=click.Path(path_type=Path), hidden=True)
@click.option("--tick", "tick_of", type=int, hidden=True)
def serve(
    servers: int, rate: int, seconds: int, tick_every: float, sizes: tuple[int, ...],
    record: Path | None, one: Path | None, tick_of: int | None,
) -> None:  # fmt: skip
    """Measure answers under load, and ticks."""
    if one is not None:
        serve_run(one, STEP / tick_every)
        return
    if tick_of is not None:
        click.echo(json.dumps(measure_ticks(tick_of)))
        return
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    click.echo(f"load: {servers} servers, {rate} requests/s for {seconds} s", err=True)
    with running_service(servers, tick_every) as port:
        load = asyncio.run(measure_load(port, servers, rate, seconds, tick_every))
    ticks = []
    for size in sizes:
        click.echo(f"ticks: {size:,} servers", err=True)
        ticks.append(json.loads(in_a_process("--tick", str(size))))
    measured = {"servers": servers, "rate": rate, "load": load, "ticks": ticks}
    goals = judge(measured)
    click.echo(as_text(measured, goals))
    if record is not None:
        content = {"on": measured_on(), **measured, "goals": goals}
        write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())


@contextmanager
def running_service(servers: int, tick_every: float) -> Iterator[int]:
    """Start a service that knows a fleet; yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        save_forecaster(random_forecaster(), run / "model")
        seed_state(run, random_fleet(servers, int(time.time()) // STEP))
        options = ("--one", folder, "--tick-every", str(tick_every))
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve", *options], cwd=ROOT,
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                yield int(address.rpartition(":")[2])
            finally:
                process.terminate()


def serve_run(run: Path, speed: float) -> None:
    """Serve a run at a free port until stopped, as the command does, but on a fast clock."""
    from serve.api import create_app
    from serve.run import listen, serve_until_stopped

    begin = time.monotonic()
    start = int(time.time()) + STEP  # by when the newest tick of the state is over

    def clock() -> float:
        return start + (time.monotonic() - begin) * speed

    make_room_for_requests()
    with listen("127.0.0.1", 0) as listening:
        app = create_app(open_service(run, run / STATE, clock=clock))
        serve_until_stopped(app, listening, "127.0.0.1", say=lambda line: print(line, flush=True))


def random_fleet(servers: int, newest: int) -> Fleet:
    """Return as many servers with a rhythm of days, noise, and all of their last ticks."""
    draw = np.random.default_rng(0)
    N, M = DAYS * 86_400 // STEP, len(SCHEMA.metrics)
    turn = np.sin(np.arange(N) * (2 * np.pi * STEP / 86_400))[:, None]
    values = np.empty((servers, N, M), np.float32)
    for server in range(servers):
        values[server] = 45 + 20 * turn + draw.normal(0, 5, (N, M)) + draw.normal(0, 10, M)
    return Fleet(
        servers=tuple(server_name(number) for number in range(servers)),
        profiles=(None,) * servers,
        metrics=SCHEMA.metric_names,
        static_names=(),
        values=values.reshape(-1, M).clip(0, 100),
        offsets=np.arange(servers + 1) * N,
        first_tick=np.full(servers, newest - N + 1),
        static=np.empty((servers, 0), np.float32),
        step_seconds=STEP,
    )


def server_name(number: int) -> str:
    """Return the name of a server; the order of names is that of numbers."""
    return f"server-{number:05}"


def seed_state(run: Path, fleet: Fleet) -> None:
    """Fill the state of a run's service."""
    service = open_service(run, run / STATE)
    service.seed(fleet)
    service.store.close()


def feed_bodies(servers: int, tick: int) -> Iterator[bytes]:
    """Yield what is posted to feed one tick of all servers."""
    draw = random.Random(tick)
    for first in range(0, servers, ROWS_AT_ONCE):
        rows = [
            {
                "timestamp": tick * STEP,
                "server_name": server_name(number),
                "values": {
                    name: round(draw.uniform(20.0, 70.0), 2) for name in SCHEMA.metric_names
                },
            }
            for number in range(first, min(first + ROWS_AT_ONCE, servers))
        ]
        yield json.dumps({"ticks": rows}).encode()


class Answer(NamedTuple):
    """What came back, and when."""

    status: int
    body: bytes


class Client:
    """Keeps connections to the service; each carries one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self.free = asyncio.Queue()

    async def connect(self) -> "Client":
        """Open the connections."""
        for _ in range(CONNECTIONS):
            self.free.put_nowait(await asyncio.open_connection("127.0.0.1", self.port))
        return self

    async def ask(self, target: str, body: bytes | None = None) -> Answer:
        """Send a request on a free connection, and wait for all of the answer."""
        reader, writer = connection = await self.free.get()
        if reader.at_eof():  # idle for so long that the service has closed it
            writer.close()
            reader, writer = connection = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{'GET' if body is None else 'POST'} {target} HTTP/1.1\r\nHost: localhost\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + (body or b""))
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.split()[1]) for line in lines if line.startswith(b"content-length"))
        content = await reader.readexactly(length)
        self.free.put_nowait(connection)
        return Answer(int(lines[0].split()[1]), content)

    async def close(self) -> None:
        """Close the connections."""
        while not self.free.empty():
            self.free.get_nowait()[1].close()


async def measure_load(
    port: int, servers: int, rate: int, seconds: int, tick_every: float
) -> dict[str, Any]:
    """Ask at a rate while ticks come; every answer must be 200."""
    client = await Client(port).connect()
    while (await client.ask("/readyz")).status != 200:
        await asyncio.sleep(0.1)
    draw = random.Random(0)
    targets = draw.choices(list(MIX), list(MIX.values()), k=rate * seconds)
    seen: list[tuple[str, float, int]] = []
    begin = time.perf_counter() + 0.5

    async def request(number: int, target: str) -> None:
        due = begin + number / rate
        await asyncio.sleep(due - time.perf_counter())
        server = server_name(draw.randrange(servers))
        answer = await client.ask(target.format(server=server))
        assert answer.status == 200, (target, answer)
        seen.append((target, time.perf_counter() - due, len(answer.body)))

    feeding = asyncio.create_task(feed_ticks(client, servers, begin, begin + seconds, tick_every))
    async with asyncio.TaskGroup() as group:
        for number, target in enumerate(targets):
            group.create_task(request(number, target))
    ticks = await feeding
    await client.close()
    rows = [
        {"request": target, **latencies([s for t, s, _ in seen if t == target])}
        | {"bytes": int(median(size for t, _, size in seen if t == target))}
        for target in MIX
        if any(t == target for t, _, _ in seen)
    ]
    every = {"request": "all", **latencies([s for _, s, _ in seen])}
    return {"seconds": seconds, "tick_every": tick_every, "requests": [*rows, every], **ticks}


async def feed_ticks(
    client: Client, servers: int, begin: float, end: float, every: float
) -> dict[str, Any]:
    """Feed a tick of all servers now and then, and see when its forecast can be read."""
    feeds, forecasts, ticks = [], [], []
    for number in range(1, int((end - begin) / every) + 1):
        await asyncio.sleep(begin + (number - 0.5) * every - time.perf_counter())
        head = json.loads((await client.ask("/api/v1/alerts")).body)
        tick = int(datetime.fromisoformat(head["now"]).timestamp()) // STEP - 1  # the last one over
        sent = time.perf_counter()
        for body in feed_bodies(servers, tick):
            answer = await client.ask("/api/v1/feed", body)
            assert answer.status == 200 and b'"rejected":[]' in answer.body, answer
        taken = time.perf_counter()
        expected = np.datetime64(tick * STEP, "s")
        target = f"/api/v1/forecasts?server={server_name(servers - 1)}&horizon_minutes=5"
        while f'"last_tick":"{expected}Z"'.encode() not in (await client.ask(target)).body:
            await asyncio.sleep(0.01)
        feeds.append(taken - sent)
        forecasts.append(time.perf_counter() - taken)
        ticks.append(time.perf_counter() - sent)
    times = {"feed": feeds, "feed_to_forecast": forecasts, "tick": ticks}
    return {name: latencies(each) for name, each in times.items()}


def latencies(seconds: Sequence[float]) -> dict[str, Any]:
    """Sum up times."""
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"count": len(seconds), "p50": float(p50), "p99": float(p99), "worst": max(seconds)}


def measure_ticks(servers: int) -> dict[str, Any]:
    """Time ticks of a fleet in this process: the rows of all servers, then all that follows."""
    make_room_for_requests()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        save_forecaster(random_forecaster(), run / "model")
        newest = int(time.time()) // STEP - TICKS - 1
        seed_state(run, random_fleet(servers, newest))
        service = open_service(run, run / STATE)
        service.turn()
        before = forget_peak()
        accepts, turns = [], []
        for number in range(1, TICKS + 1):
            bodies = list(feed_bodies(servers, newest + number))
            begin = time.perf_counter()
            taken = sum(service.accept(body)["accepted"] for body in bodies)
            accepted = time.perf_counter()
            assert taken == servers and service.turn() and service.trouble() is None
            accepts.append(accepted - begin)
            turns.append(time.perf_counter() - accepted)
        service.store.close()
    return {
        "servers": servers,
        "accept_seconds": median(accepts),
        "turn_seconds": median(turns),
        "worst_seconds": max(a + t for a, t in zip(accepts, turns, strict=True)),
        "state_bytes": service.state.memory_bytes,
        "held_bytes": before,
        "peak_bytes": peak_memory(),
    }


def in_a_process(*arguments: str) -> str:
    """Run this benchmark with other arguments, and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException("a measurement failed, see above")
    return done.stdout


def judge(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell which goals hold; what was not measured is not judged."""
    found = []
    every = measured["load"]["requests"][-1]
    wanted = measured["servers"], measured["rate"]
    if wanted == (GOAL_SERVERS, 200):
        text = "p99 of 200 requests/s at 160 servers, forecasting meanwhile"
        found.append((text, every["p99"], LATENCY_GOAL))
        text = "a tick of 160 servers meanwhile, from its first row to its forecast being read"
        found.append((text, measured["load"]["tick"]["worst"], TICK_GOAL))
    for row in measured["ticks"]:
        goal = {GOAL_SERVERS: TICK_GOAL, LARGE: LARGE_GOAL}.get(row["servers"])
        if goal is not None:
            found.append((f"a tick of {row['servers']:,} servers", row["worst_seconds"], goal))
    return [
        {"goal": text, "measured": value, "unit": "s", "at_most": most, "holds": value <= most}
        for text, value, most in found
    ]


def as_text(measured: dict[str, Any], goals: Sequence[dict[str, Any]]) -> str:
    """Lay out what was measured."""
    load = measured["load"]
    lines = [HEADER]
    others = [
        {"request": "a feed of all servers", **load["feed"]},
        {"request": "from its answer to its forecast being told", **load["feed_to_forecast"]},
        {"request": "both: a tick under load", **load["tick"]},
    ]
    for row in [*load["requests"], *others]:
        p50, p99, worst = (1e3 * row[key] for key in ("p50", "p99", "worst"))
        lines.append(f"{row['request']:<74}{row['count']:>7,}{p50:>9.1f}{p99:>9.1f}{worst:>10.1f}")
    for row in measured["ticks"]:
        lines.append(
            f"a tick of {row['servers']:,} servers: {row['accept_seconds']:.2f} s to take in, "
            f"{row['turn_seconds']:.2f} s to forecast and tell; peak {row['peak_bytes'] / 1e6:,.0f}"
            f" MB, {row['state_bytes'] / 1e6:,.0f} MB of them the state"
        )
    return "\n".join([*lines, *map(told, goals)])


if __name__ == "__main__":
    serve()
