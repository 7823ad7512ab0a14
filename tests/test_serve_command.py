"""The command `serve`: what it refuses to start with, and that it starts, answers and ends."""

import contextlib
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("uvicorn", reason="serving needs: pip install 'fleet-tft[serve]'")

from data.fleet import Fleet
from serve.commands import serve_command
from serve.poll import Poller
from serve.run import is_loopback, read_token
from tests.asgi import Client
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tests.fake_prometheus import FakePrometheus, Handler, running, send, status
from tests.serving import ServingProcess
from tft.bundle import save_forecaster

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_forecaster(tiny_forecaster(), folder / "model")
    return folder


def served(run: Path, *options: str, fleet: Fleet | None = None, **variables: str) -> Any:
    """Run the command in this process; it is to end before it answers anybody."""

    def read_table(_: Path, __: Path) -> Fleet:
        assert fleet is not None
        return fleet

    command = serve_command(read_table)
    return CliRunner().invoke(command, [str(run), *options], env=variables)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "example.org"])
def test_an_address_others_can_reach_needs_a_token(
    run: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = served(run, "--host", host)
    assert isinstance(result.exception, ValueError)
    assert "anyone on the network" in str(result.exception)
    assert "--token-env" in str(result.exception)
    monkeypatch.setenv("A_TOKEN", TOKEN)
    assert read_token("A_TOKEN", host) == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host) and read_token(None, host) is None


@pytest.mark.parametrize("token", ["", "short", "with a space in it", "né" * 20, "line\n" * 9])
def test_a_weak_token_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", token)
    with pytest.raises(ValueError, match="--token-env A_TOKEN: expected .* at least 16 ASCII"):
        read_token("A_TOKEN", "127.0.0.1")


def test_one_source_at_a_time(run: Path) -> None:
    result = served(run, "--data", "x.csv", "--listen-only")
    assert result.exit_code == 2
    assert "one of --data, --prometheus and --listen-only" in result.output


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_it_names_what_to_install(
    run: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    result = served(run)
    assert isinstance(result.exception, ValueError)
    assert "pip install 'fleet-tft[serve]'" in str(result.exception)


def test_a_port_in_use_is_told_before_anything_is_loaded(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = served(run / "nowhere", "--port", str(taken.getsockname()[1]))
    assert "cannot listen at 127.0.0.1" in str(result.exception)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    result = served(tmp_path, "--port", "0")
    assert "no model in it; expected a run directory" in str(result.exception)


def test_a_table_fills_the_state(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("serve.run.serve_until_stopped", lambda app, *_, **__: seen.append(app))
    options = ("--port", "0", "--state", str(tmp_path / "state"), "--data", "table")
    result = served(run, *options, fleet=small_fleet())
    assert result.exception is None, result.output
    assert "190 ticks of the table are new to the state" in result.output
    service, client = seen[0].state.service, Client(seen[0])
    servers = client.get("/api/v1/fleet").json()["servers"]  # the first outlook may take long
    assert [(each["name"], each["status"]) for each in servers] == [
        (f"server{number}", "waiting") for number in range(3)
    ]
    assert client.get("/api/v1/servers/server1").status == 200
    service.turn()
    assert service.shown.rendering.outlook.servers == ("server0", "server1", "server2")
    service.store.close()
    result = served(run, *options, fleet=small_fleet())
    assert "0 ticks of the table are new to the state" in result.output
    seen[1].state.service.store.close()


def poller_of(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, *options: str,
    **variables: str,
) -> Poller:  # fmt: skip
    """Return what would ask a Prometheus once the service had started."""
    seen: list[Any] = []
    monkeypatch.setattr("serve.run.serve_until_stopped", lambda app, *_, **__: seen.append(app))
    lines = [f"{name} = 'avg({name}[$range])'" for name in SCHEMA.metric_names]
    queries = folder / "queries.toml"
    queries.write_text("\n".join([f"step_seconds = {SCHEMA.step_seconds}", "[metrics]", *lines]))
    own = ("--port", "0", "--state", str(folder / "state"), "--queries", str(queries))
    result = served(run, *own, "--prometheus", url, *options, **variables)
    assert result.exception is None, result.output
    poller = seen[0].state.service.poller
    assert isinstance(poller, Poller)
    return poller


def test_a_prometheus_that_refuses_is_told_with_the_options_there_are(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--token-env` would be the wrong advice: that is the token of the service's own clients."""
    with running(FakePrometheus()) as fake:
        fake.faults = [status(401)]
        poller = poller_of(run, tmp_path, monkeypatch, fake.url)
        poller.turn()
    assert poller.error is not None
    command = serve_command(lambda run, table: small_fleet())
    named = set(re.findall(r"--[\w-]+", poller.error))
    assert named == {"--prometheus-token-env", "--prometheus-basic-auth-env"}
    assert named <= {option for each in command.params for option in each.opts}


@pytest.mark.parametrize(
    ("option", "secret", "header"),
    [
        ("--prometheus-token-env", "s3cret", "Bearer s3cret"),
        ("--prometheus-basic-auth-env", "ann:s3cret", "Basic YW5uOnMzY3JldA=="),
    ],
)
def test_a_prometheus_is_sent_its_credentials(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    option: str, secret: str, header: str,
) -> None:  # fmt: skip
    with running(FakePrometheus()) as fake:
        poller = poller_of(run, tmp_path, monkeypatch, fake.url, option, "PROM", PROM=secret)
        poller.turn()
    assert poller.error is None
    assert {sent["Authorization"] for sent in fake.headers} == {header}


def test_a_prometheus_to_be_asked_again_later_does_not_keep_the_service_from_ending(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def busy(handler: Handler) -> None:
        asked.set()
        send(handler, 503, "busy", Retry_After="3600")

    with running(FakePrometheus()) as fake:
        fake.faults = [busy] * 9
        poller = poller_of(run, tmp_path, monkeypatch, fake.url)
        poller.start()
        assert asked.wait(30)
        began = time.monotonic()
        poller.stop()
    assert time.monotonic() - began < 5 and len(fake.queries) == 1


@pytest.fixture
def process(run: Path, tmp_path: Path) -> Iterator[ServingProcess]:
    process = ServingProcess(
        run, tmp_path / "log", "--state", tmp_path / "state", "--token-env", "A_TOKEN",
        A_TOKEN=TOKEN,
    )  # fmt: skip
    yield process
    process.stop(signal.SIGKILL)


def test_it_serves_until_it_is_asked_to_stop_and_goes_on_from_there(
    process: ServingProcess, run: Path, tmp_path: Path
) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert process.ask("/healthz").json() == {"status": "alive"}
    assert process.ask("/api/v1/fleet").status == 401
    now = time.time()
    rows = [
        {"timestamp": now - 3600 * (30 - n), "server_name": "web-1", "values": {"cpu_percent": 20}}
        for n in range(30)
    ]
    body = json.dumps({"ticks": rows}).encode()
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    answer = process.ask("/api/v1/feed", pieces, token)  # chunked
    assert answer.json()["accepted"] == 30, answer.body
    evil = process.ask("/api/v1/feed", body, {**token, "Host": "evil.example"})
    assert evil.status == 421
    flood = (b"x" * 2**20 for _ in range(100))
    with contextlib.suppress(OSError):  # refused and closed while more is being sent
        assert process.ask("/api/v1/feed", flood, token).status == 413
    assert process.ask("/api/v1/servers/web-1", headers=token).status == 200
    assert process.stop(signal.SIGTERM) == 0
    assert "Traceback" not in process.log.read_text()
    again = ServingProcess(run, tmp_path / "log2", "--state", tmp_path / "state")
    try:
        again.wait_until_ready()
        server = again.ask("/api/v1/servers/web-1").json()["server"]
        assert server["status"] == "forecast"
        assert len([v for v in server["history"]["values"]["cpu_percent"] if v is not None]) == 24
    finally:
        assert again.stop(signal.SIGINT) == 0
