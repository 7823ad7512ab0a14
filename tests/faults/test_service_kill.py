"""No tick that was acknowledged is lost when the service is killed with kill -9.

The short form runs with the tests; `FAULT_ROUNDS=50 python -m pytest tests/faults` is the long one
and counts at its end.
"""

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="serving needs: pip install 'fleet-tft[serve]'")

from serve.commands import open_service
from serve.times import utc
from tests.builders import SCHEMA, tiny_forecaster
from tests.faults.processes import ROUNDS, Starter, service_kills, wait_until
from tests.serving import Connection, wait_for_port
from tft.bundle import save_forecaster

SERVERS = 7
STEP = SCHEMA.step_seconds
METRICS = SCHEMA.metric_names


class Sender(threading.Thread):
    """Feeds tick after tick until nobody answers, and keeps what was acknowledged."""

    def __init__(self, service: Connection, pauses: random.Random | None) -> None:
        super().__init__(daemon=True)
        self.service, self.pauses = service, pauses
        self.first = int(time.time()) // STEP - 190  # of those that are kept
        self.sent: list[list[dict[str, Any]]] = []
        self.acknowledged = 0
        self.asking = False

    def run(self) -> None:
        for number in range(190 * SERVERS):
            self.sent.append(self._rows(number))
            try:
                self.asking = True
                answer = self.service.feed(self.sent[-1])
                self.asking = False
            except OSError:
                return
            assert answer.status == 200 and answer.json()["accepted"] == 1, answer.body
            self.acknowledged += 1
            if self.pauses is not None:
                time.sleep(self.pauses.uniform(0.0, 0.02))

    def _rows(self, number: int) -> list[dict[str, Any]]:
        values = {name: float((number * 37 + place) % 90) for place, name in enumerate(METRICS)}
        when = utc((self.first + number // SERVERS) * STEP)
        server = f"server-{number % SERVERS}"
        return [{"timestamp": when, "server_name": server, "values": values}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_forecaster(tiny_forecaster(), folder / "model")
    return folder


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_was_acknowledged_is_there_again(
    starter: Starter, run: Path, tmp_path: Path, seed: int
) -> None:
    """Odd rounds feed without a pause, so that most kills fall into a feed."""
    draw = random.Random(seed)
    process = starter.start("serve", run, "--port", "0", "--state", tmp_path / "state")
    port = wait_for_port(process.folder / "errors", lambda: process.ended)
    sender = Sender(Connection(port), None if seed % 2 else draw)
    sender.start()
    enough = draw.randrange(60)
    wait_until(lambda: sender.acknowledged >= enough or not sender.is_alive())
    time.sleep(draw.uniform(0.0, 0.03))
    inside = sender.asking
    assert process.kill()
    sender.join()
    service = open_service(run, tmp_path / "state")  # as the next process would
    held = held_rows(service.state.fleet())
    for rows in sender.sent[: sender.acknowledged]:
        (row,) = rows
        assert held.pop((row["server_name"], row["timestamp"]), None) == list(
            row["values"].values()
        )
    unacknowledged = [(row["server_name"], row["timestamp"]) for row in sender.sent[-1]]
    assert set(held) <= set(unacknowledged), "nothing is there that was not sent"
    everything = json.dumps({"ticks": [row for rows in sender.sent for row in rows]}).encode()
    again = service.accept(everything)
    assert again["accepted"] + again["duplicates"] == len(sender.sent)
    assert again["duplicates"] == sender.acknowledged + len(held)
    service.store.close()
    service_kills.update(tried=1, inside=inside, acknowledged=sender.acknowledged)


def held_rows(fleet: Any) -> dict[tuple[str, str], list[float]]:
    """Return every tick held, by server and time."""
    return {
        (name, utc((int(fleet.first_tick[number]) + place) * STEP)): values.tolist()
        for number, name in enumerate(fleet.servers)
        for place, values in enumerate(fleet.series(number))
    }
