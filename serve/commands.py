"""The command that serves a run; nothing heavy is imported before it runs."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from data.fleet import Fleet
    from serve.service import Service

ReadTable = Callable[[Path, Path], "Fleet"]
"""From a run and a table to the table's fleet, read with the run's columns and roles."""
STATE = "service"  # folder of a run
SWITCH_SECONDS = 0.0005  # after which a thread is asked to pass Python's lock on; Python: 0.005
SOURCE = "--prometheus-"  # what the options for the Prometheus' credentials begin with
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def serve_command(read_table: ReadTable) -> click.Command:
    """Return the command `serve`.

    Args:
        read_table: reads a table as the run's own was read.
    """

    @click.command("serve")
    @click.argument("run", type=click.Path(path_type=Path))
    @click.option("--data", type=click.Path(path_type=Path), help="Table of history to begin with.")
    @click.option("--prometheus", "url", help="Ask the Prometheus at this URL for new ticks.")
    @click.option("--queries", type=FILE, help="TOML file of queries; see ingest prometheus.")
    @click.option("--prometheus-token-env", help="Variable that holds the Prometheus' token.")
    @click.option("--prometheus-basic-auth-env", help="Variable that holds its user:password.")
    @click.option("--listen-only", is_flag=True, help="Ticks come by POST /api/v1/feed.  [default]")
    @click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
    @click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
    @click.option("--allow-host", multiple=True, help="Further name clients may ask for.")
    @click.option("--token-env", help="Variable that holds the token clients must send.")
    @click.option("--rules", type=FILE, help="TOML file of alert rules.")
    @click.option("--state", type=FOLDER, help="Folder kept between runs.  [default: RUN/service]")
    @click.option("--models", type=FOLDER, help="Folder of models that may be loaded by name.")
    @click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
    def serve(
        run: Path, data: Path | None, url: str | None, queries: Path | None,
        prometheus_token_env: str | None, prometheus_basic_auth_env: str | None,
        listen_only: bool, host: str, port: int, allow_host: tuple[str, ...],
        token_env: str | None, rules: Path | None, state: Path | None, models: Path | None,
        device: str,
    ) -> None:  # fmt: skip
        """Serve forecasts of RUN over HTTP, with a page to look at them.

        Ticks come by POST /api/v1/feed, or from a Prometheus; what was accepted is kept in --state.
        """
        if sum((data is not None, url is not None, listen_only)) > 1:
            raise click.UsageError("give one of --data, --prometheus and --listen-only")
        check_extra()
        from serve.api import create_app
        from serve.run import listen, read_token, serve_until_stopped

        logging.basicConfig(format="%(levelname)s: %(message)s")
        token = read_token(token_env, host)
        with listen(host, port) as listening:
            service = open_service(run, state or run / STATE, rules, models, device)
            if data is not None:
                _fill(service, read_table(run, data))
            if url is not None:
                _poll(service, url, queries, prometheus_token_env, prometheus_basic_auth_env)
            app = create_app(service, asks_token=token is not None)
            make_room_for_requests()
            serve_until_stopped(app, listening, host, allow_host, token, say=_say)

    return serve


def open_service(
    run: Path,
    state: Path,
    rules: Path | None = None,
    models: Path | None = None,
    device: str = "cpu",
    clock: Callable[[], float] = time.time,
) -> "Service":
    """Put a service together from files.

    Args:
        run: a run directory, or the folder of a model alone.
        state: folder kept between runs, made where it is missing.
        rules: file of alert rules.
        models: folder of models that may be loaded by name.
        device: where forecasts are made.
        clock: Unix seconds.

    Raises:
        ValueError: one of them cannot be used.
        OSError: the state cannot be read or written.
    """
    from serve.about import bundle_of, read_evaluation
    from serve.alert_rules import load_rules
    from serve.measured import evaluated_thresholds
    from serve.models import ModelShelf
    from serve.service import Service
    from serve.state import FleetState
    from serve.store import Store

    shelf = ModelShelf(bundle_of(run), models, device)
    schema = shelf.current.forecaster.schema
    evaluation = read_evaluation(shelf.current.folder)
    evaluated = None if evaluation is None else evaluated_thresholds(evaluation)
    checked = load_rules(rules, schema, evaluated)
    store = Store(state, schema)
    return Service(FleetState(schema, store, clock), store, shelf, checked, clock)


def make_room_for_requests() -> None:
    """Forecast with one thread less than there are cores: the loop that answers needs one too.

    And have the two pass Python's lock on sooner: 99 % of the requests that come meanwhile are
    answered within 23 ms instead of 32, see benchmarks/NOTES.md.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    sys.setswitchinterval(SWITCH_SECONDS)


def check_extra() -> None:
    """Refuse to serve without what serving needs.

    Raises:
        ValueError: a package is missing; the message names the install command.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"serving needs {error.name}, which is not installed: pip install 'fleet-tft[serve]'"
        ) from error


def _fill(service: "Service", fleet: "Fleet") -> None:
    from serve.names import EXPECTED_NAME, is_name

    odd = [name for name in fleet.servers if not is_name(name)]
    if odd:
        raise ValueError(f"server {odd[0]!r} cannot be served by its name: {EXPECTED_NAME}")
    _say(f"{service.seed(fleet):,} ticks of the table are new to the state")


def _poll(
    service: "Service", url: str, queries: Path | None, token_env: str | None,
    basic_auth_env: str | None,
) -> None:  # fmt: skip
    from data.prometheus import Fetcher, connect, read_queries
    from serve.poll import from_prometheus

    stopping = threading.Event()
    client = connect(
        url, token_env, basic_auth_env, say=_say, option_prefix=SOURCE, stopping=stopping
    )
    fetcher = Fetcher(client, read_queries(queries))
    service.poll(from_prometheus(fetcher, service.schema), stopping)


def _say(line: str) -> None:
    click.echo(line, err=True)
