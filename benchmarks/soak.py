"""Whether a service that runs for long holds its memory: `python -m benchmarks.soak RUN`.

The live demo of a run's model, in a process of its own and in fast motion, is asked for all that a
page asks for while ticks come, and its scenario is switched every minute. What it keeps is bounded
by what the model looks back on, so once it is warm its memory must stay what it is.
"""

import itertools
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.machine import ROOT, measured_on
from benchmarks.memory import held_memory
from tft.files import write_atomically

TARGETS = (
    "/", "/api/v1/fleet", "/api/v1/forecasts", "/api/v1/servers/{server}", "/api/v1/alerts",
    "/api/v1/explain/{server}", "/api/v1/model", "/metrics", "/readyz",
)  # fmt: skip
STEP = 300  # seconds of a simulated tick
SCENARIOS = ("degrading", "critical", "cascade", "healthy")
SAMPLE_SECONDS, SCENARIO_SECONDS = 10.0, 60.0
START_SECONDS = 120.0
FLAT = 1.02  # the last third's median memory, as a share of the middle third's


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--tick-seconds", type=float, default=0.5, show_default=True)
@click.option("--rate", type=float, default=10.0, show_default=True, help="Requests/s.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
def soak(run: Path, minutes: float, tick_seconds: float, rate: float, record: Path | None) -> None:
    """Let a service run, and watch its memory."""
    command = [sys.executable, "cli.py", "demo", "--run", str(run.absolute()), "--port", "0"]
    with subprocess.Popen(
        [*command, "--tick-seconds", str(tick_seconds)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            measured = watch(process, find_address(process), 60 * minutes, rate)
        finally:
            process.terminate()
    content = {"on": measured_on(), "minutes": minutes, "tick_seconds": tick_seconds, **measured}
    click.echo(as_text(content))
    if record is not None:
        write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())


def find_address(process: subprocess.Popen[str]) -> str:
    """Return the address that the service says it serves at."""
    assert process.stderr is not None
    for line in process.stderr:
        if "http://" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()  # so it never fills
            return "http://" + line.split("http://", 1)[1].split()[0].rstrip("/.,;")
    raise click.ClickException("the demo ended before it served anything")


def watch(
    process: subprocess.Popen[str], address: str, seconds: float, rate: float
) -> dict[str, Any]:
    """Ask at a rate for so long; returns what was asked, what failed and the memory held."""
    servers = wait_for_forecasts(address)
    begin = time.monotonic()
    first_tick = newest_tick(address)
    sample_at = switch_at = begin
    samples: list[tuple[float, int]] = []
    failed: list[str] = []
    scenarios = itertools.cycle(SCENARIOS)
    for number in itertools.count():
        time.sleep(max(begin + number / rate - time.monotonic(), 0.0))
        now = time.monotonic()
        if now >= begin + seconds:
            break
        if now >= switch_at:
            body = json.dumps({"scenario": next(scenarios)}).encode()
            ask(f"{address}/api/v1/demo/scenario", body)
            switch_at += SCENARIO_SECONDS
        if now >= sample_at:
            samples.append((now - begin, held_memory(process.pid)))
            sample_at += SAMPLE_SECONDS
        target = TARGETS[number % len(TARGETS)].format(server=servers[number % len(servers)])
        try:
            ask(address + target)
        except urllib.error.HTTPError as error:
            failed.append(f"{target}: {error.code}")
    return {
        "requests": number,
        "failed": failed,
        "ticks": newest_tick(address) - first_tick,
        "memory": [{"second": round(at, 1), "bytes": held} for at, held in samples],
        "flat": flat([held for _, held in samples]),
    }


def flat(memory: Sequence[int]) -> bool:
    """Tell whether the last third of samples, by its median, holds what the middle third did."""
    third = len(memory) // 3
    middle = memory[third : 2 * third] or memory
    return median(memory[2 * third :]) <= FLAT * median(middle)


def wait_for_forecasts(address: str) -> list[str]:
    """Return the servers' names, once one of them has a forecast."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        servers = json.loads(ask(f"{address}/api/v1/fleet"))["servers"]
        if any(each["status"] == "forecast" for each in servers):
            return [each["name"] for each in servers]
        time.sleep(0.5)
    raise click.ClickException(f"no forecast within {START_SECONDS:g} s")


def newest_tick(address: str) -> int:
    """Return the newest tick that the service has received."""
    head = json.loads(ask(f"{address}/api/v1/alerts"))
    return int(datetime.fromisoformat(head["data"]["newest_tick"]).timestamp()) // STEP


def ask(url: str, body: bytes | None = None) -> bytes:
    """Return the answer to a request, all of it."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
    return content


def as_text(measured: dict[str, Any]) -> str:
    """Tell what was measured."""
    memory = measured["memory"]
    marks = [memory[len(memory) * place // 6] for place in range(6)] + [memory[-1]]
    return "\n".join(
        [
            f"{measured['minutes']:g} minutes, {measured['ticks']:,} ticks of 5 minutes, "
            f"{measured['requests']:,} requests, {len(measured['failed'])} failed",
            *(f"  after {m['second'] / 60:5.1f} min: {m['bytes'] / 1e6:,.0f} MB" for m in marks),
            f"memory {'is flat' if measured['flat'] else 'GROWS'}: its median in the last third, "
            f"against the middle third (up to {FLAT - 1:.0%} more)",
        ]
    )


if __name__ == "__main__":
    soak()
