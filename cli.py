"""Train, evaluate and use forecasters of server metrics from the command line."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from report.console import (
    DATA,
    ProgressLine,
    check_folder,
    column_options,
    say,
    with_options,
)
from serve.commands import serve_command
from serve.demo_command import demo_command
from train.commands import BUILT_IN, cross_validate, demo_run, lr_find, train

if TYPE_CHECKING:
    from data.fleet import Fleet
    from data.reading import TableSpec
    from tft.forecaster import Forecaster
    from train.runs import OpenRun

# Heavy imports are inside the commands that need them: --help is instant.
PROFILES = {
    "ml_compute": 3,
    "database": 4,
    "web_api": 5,
    "conductor_mgmt": 2,
    "data_ingest": 3,
    "risk_analytics": 2,
    "generic": 1,
}
RUN = click.argument("run", type=click.Path(path_type=Path))


class OneLineErrors(click.Group):
    """Tells a person what is wrong in one line: exit 2 for bad input, 1 for a failed run."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read our output has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (ValueError, OSError, FloatingPointError) as error:
            message = " ".join(str(error).split())
            click.echo(f"Error: {message}", err=True)
            sys.exit(
                1
                if isinstance(error, (FloatingPointError, ChildProcessError, ConnectionError))
                else 2
            )


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 100})
def cli() -> None:
    """Forecast server metrics 8 hours ahead, as quantiles."""


cli.add_command(train)
cli.add_command(lr_find)
cli.add_command(cross_validate)


def profile_counts(command: Callable[..., None]) -> Callable[..., None]:
    """Add --num-PROFILE options, spelled with dashes or underscores."""
    for name, default in reversed(PROFILES.items()):
        command = click.option(
            f"--num-{name.replace('_', '-')}",
            f"--num_{name}",
            f"num_{name}",
            type=click.IntRange(0),
            default=default,
            show_default=True,
            help=f"Servers of profile {name}.",
        )(command)
    return command


@cli.command()
@click.option("--hours", type=click.IntRange(1), default=720, show_default=True)
@click.option(
    "--out-dir", type=click.Path(path_type=Path), default=BUILT_IN, show_default=True,
    help="Folder for the table and generation.json.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option(
    "--format", "file_format", type=click.Choice(["parquet", "csv"]), default="parquet",
    show_default=True,
)  # fmt: skip
@profile_counts
def generate(
    hours: int, out_dir: Path, seed: int, file_format: Literal["parquet", "csv"], **counts: Any
) -> None:
    """Write a synthetic fleet to try things on."""
    from data.synthetic import FleetSpec, write_fleet

    with ProgressLine("generating") as progress:
        path = write_fleet(
            FleetSpec(hours=hours, seed=seed, **counts), out_dir, file_format, progress
        )
    facts = json.loads((out_dir / "generation.json").read_text())
    say(
        f"{facts['rows']:,} rows of {facts['servers']} servers, "
        f"{sum(facts['ticks_missing'].values()):,} ticks missing"
    )
    click.echo(path)


@cli.group()
def ingest() -> None:
    """Fetch a table of metrics from where they are kept."""


@ingest.command("prometheus")
@click.option("--url", required=True, help="Of the server, such as http://localhost:9090.")
@click.option("--days", type=click.IntRange(1), default=30, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the table; what it holds already is not fetched again.",
)
@click.option(
    "--queries",
    type=click.Path(path_type=Path),
    help="TOML file of queries by column.  [default: node_exporter's cpu, memory, disk, load]",
)
@click.option("--token-env", help="Environment variable that holds a bearer token.")
@click.option("--basic-auth-env", help="Environment variable that holds user:password.")
@click.option(
    "--timeout", type=float, default=30.0, show_default=True, help="Seconds for one query."
)  # fmt: skip
def ingest_prometheus(
    url: str, days: int, out: Path, queries: Path | None, token_env: str | None,
    basic_auth_env: str | None, timeout: float,
) -> None:  # fmt: skip
    """Fetch what is missing of the last --days from a Prometheus, up to the last whole tick."""
    from data.prometheus import connect, ingest, read_queries

    asked, client = read_queries(queries), connect(url, token_env, basic_auth_env, timeout, say)
    with ProgressLine(f"fetching from {url}") as progress:
        fetched = ingest(client, days, out, asked, progress=progress)
    for line in fetched.lines():
        say(f"  {line}")
    click.echo(out)


@cli.command()
@RUN
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Table of history.")
@click.option(
    "--origins", "origins_file", type=click.Path(path_type=Path),
    help="CSV of server_name, origin (first tick to forecast).  [default: each server's latest]",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".parquet or .csv.")
@click.option("--quantiles", default="0.1,0.5,0.9", show_default=True, help="Levels to write.")
@click.option(
    "--shard", default="1/1", show_default=True,
    help="i/N: only part i of N of the servers; a server's part depends on its name alone.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@column_options
def forecast(
    run: Path, data: Path, origins_file: Path | None, out: Path, quantiles: str, shard: str,
    device: str, **options: Any
) -> None:  # fmt: skip
    """Forecast a table with the forecaster of a run directory RUN."""
    from data.forecasts import (
        check_levels,
        check_output,
        choose_origins,
        parse_levels,
        write_forecasts,
    )
    from data.shards import parse_shard
    from train.runs import open_run

    levels, part = parse_levels(quantiles), parse_shard(shard)
    check_output(out, *(path for path in (data, origins_file) if path is not None))
    opened = open_run(run, device)
    forecaster, schema = opened.forecaster, opened.forecaster.schema
    check_levels(levels, schema)
    spec = columns_of(opened, options)
    fleet = read(data, spec, forecaster)
    origins = choose_origins(origins_file, fleet, schema, spec.timezone, say, part)
    with ProgressLine("forecasting") as progress:
        rows = write_forecasts(forecaster, fleet, origins, out, levels, progress)
    say(f"{rows:,} rows: {len(origins.server):,} windows of {len(schema.targets)} metrics")
    click.echo(out)


def pages(folder: str, windows: int) -> Callable[[Callable[..., None]], Any]:
    """Add what commands that write pages about a run share."""
    return with_options(
        RUN,
        click.option(
            "--out-dir", type=click.Path(path_type=Path), help=f"[default: RUN/{folder}]"
        ),
        click.option(
            "--windows", type=click.IntRange(1), default=windows, show_default=True,
            help="Most windows, evenly spaced.",
        ),
        click.option("--device", default="auto", show_default=True),
        column_options,
    )  # fmt: skip


@cli.command()
@DATA
@pages("evaluation", windows=2048)
def evaluate(
    run: Path, data: Path | None, out_dir: Path | None, windows: int, device: str, **options: Any
) -> None:
    """Score the forecaster of RUN beside naive forecasts, on windows it was not trained on."""
    from report.publish import publish
    from train.runs import open_run

    opened = open_run(run, device)
    folder = out_dir or opened.directory / "evaluation"
    check_folder(folder)
    path = data or opened.data
    if path is None or not path.exists():
        raise ValueError(f"the table {run} was trained on is not there; name one with --data")
    fleet, own = read(path, columns_of(opened, options), opened.forecaster), opened.data
    own_table = own is not None and path.resolve() == own
    with ProgressLine("evaluating") as progress:
        published = publish(
            opened.forecaster, fleet, opened.directory, path.name, own_table, folder, windows,
            progress,
        )  # fmt: skip
    click.echo(published.text)
    for file in published.files:
        click.echo(file)


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Table of history.")
@click.option("--server", help="Only this one.  [default: every server]")
@pages("explanation", windows=256)
def explain(
    run: Path, data: Path, server: str | None, out_dir: Path | None, windows: int, device: str,
    **options: Any
) -> None:  # fmt: skip
    """Show what the forecaster of RUN rests on: variables and past hours, as pages of HTML."""
    from report.explain_page import write_explanation
    from train.runs import open_run

    opened = open_run(run, device)
    folder, name = out_dir or opened.directory / "explanation", opened.directory.resolve().name
    check_folder(folder)
    fleet = read(data, columns_of(opened, options), opened.forecaster)
    with ProgressLine("explaining") as progress:
        files = write_explanation(
            opened.forecaster, fleet, name, data.name, folder, server, windows, progress
        )
    for file in files:
        click.echo(file)


@cli.command()
@RUN
@click.option("--format", "file_format", type=click.Choice(["torch", "onnx"]), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".pt2 or .onnx.")
def export(run: Path, file_format: str, out: Path) -> None:
    """Write the forecaster of RUN as one file for programs without this code; see tft/export.py."""
    from data.forecasts import check_output
    from tft.export import ENDINGS, export_forecaster
    from train.runs import open_run

    check_output(out, endings=[ENDINGS[file_format]])
    forecaster = open_run(run, "cpu").forecaster
    with ProgressLine(f"exporting as {file_format}"):
        difference = export_forecaster(forecaster, file_format, out)
    say(f"compared on random windows: at most {difference:.1g} of a window's spread apart")
    click.echo(out)


def columns_of(opened: "OpenRun", options: Mapping[str, Any]) -> "TableSpec":
    """Return what columns were called in the run's table; flags win."""
    from data.reading import TableSpec
    from train.options import column_flags

    if not opened.columns:
        say("no run directory around the model: default column names, naive times read as UTC")
    return TableSpec(**{**opened.columns, **column_flags(options)})


def read(data: Path, spec: "TableSpec", forecaster: "Forecaster") -> "Fleet":
    """Read a table with the forecaster's own roles and bounds."""
    from data.reading import read_fleet

    with ProgressLine(f"reading {data}") as progress:
        result = read_fleet(data, spec, forecaster.schema, progress)
    for line in result.summary.lines():
        say(f"  {line}")
    return result.fleet


def read_for(run: Path, data: Path) -> "Fleet":
    """Read a table as a run's own was read."""
    from data.reading import TableSpec
    from train.runs import open_run

    opened = open_run(run, "cpu")
    return read(data, TableSpec(**opened.columns), opened.forecaster)


def demo_model() -> Path:
    """Return the demo's run, trained and evaluated first where it is not."""
    run = demo_run()
    if not (run / "evaluation").exists():
        click.get_current_context().invoke(evaluate, run=run)
    return run


cli.add_command(serve_command(read_for))
cli.add_command(demo_command(demo_model))

if __name__ == "__main__":
    cli()
