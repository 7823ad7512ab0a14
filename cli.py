"""Train, evaluate and use forecasters of server metrics from the command line."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from report.console import ProgressLine, check_folder

if TYPE_CHECKING:
    from data.fleet import Fleet
    from data.reading import TableSpec
    from tft.forecaster import Forecaster
    from train.runs import OpenRun
    from train.signals import StopRequest

# Heavy imports are inside the commands that need them: --help is instant.
BUILT_IN = Path("training")
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
DATA = click.option("--data", type=click.Path(path_type=Path), help="Table or folder of tables.")


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
            sys.exit(1 if isinstance(error, (FloatingPointError, ChildProcessError)) else 2)


@click.group(cls=OneLineErrors, context_settings={"max_content_width": 100})
def cli() -> None:
    """Forecast server metrics 8 hours ahead, as quantiles."""


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


def with_options(*options: Callable[..., Any]) -> Callable[[Callable[..., None]], Any]:
    """Add options to a command, in this order."""

    def decorate(command: Callable[..., None]) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


column_options = with_options(  # how a table's rows are told apart
    click.option("--timestamp-column", "timestamp", help="Column of times."),
    click.option("--server-column", "server_name", help="Column of server names."),
    click.option("--profile-column", "profile", help="Column of server profiles."),
    click.option("--timezone", help="Zone of times that name none.  [default: UTC]"),
    click.option("--strict", is_flag=True, default=None, help="A rejected row is an error."),
)
step_options = with_options(  # what training and the LR range test share
    DATA,
    click.option("--config", type=click.Path(path_type=Path), help="TOML file of keys."),
    click.option("--set", "settings", multiple=True, help="key=value, any configuration key."),
    click.option("--target", "target_metrics", help="Columns to forecast, a,b,c."),
    click.option("--observed", help="Columns seen in the past only, a,b,c."),
    click.option("--static", help="Columns of one number per server, a,b,c."),
    click.option("--step-seconds", type=int, help="Seconds between ticks.  [default: 300]"),
    click.option("--bounds", multiple=True, help="name=low:high; leave one empty for none."),
    click.option("--validation-servers", help="Never trained on, only validated, a,b,c."),
    click.option("--precision", help="fp32, bf16 or fp16.  [default: fp32]"),
    click.option("--batch-size", type=int, help="Windows in a batch.  [default: 32]"),
    click.option(
        "--accumulate", "accumulate_grad_batches", type=int,
        help="Batches in an optimizer step.  [default: 1]",
    ),
    click.option("--workers", "num_workers", type=int, help="Loader processes.  [default: 0]"),
    click.option("--init", help="Run to start from, of another fleet.  [default: fresh weights]"),
    click.option("--seed", "random_seed", type=int, help="Of everything.  [default: 42]"),
    click.option("--deterministic", is_flag=True, help="The same on a GPU too, slower there."),
    click.option("--device", help="auto, cpu or cuda.  [default: auto]"),
    column_options,
)  # fmt: skip
train_options = with_options(
    click.option("--epochs", type=int, help="Most epochs.  [default: 20]"),
    click.option(
        "--max-minutes", type=float,
        help="Train so long, reading included; without --epochs, as many as fit.",
    ),
    click.option("--learning-rate", type=float, help="At the start.  [default: 0.003]"),
    click.option("--find-lr", "auto_lr_find", is_flag=True, help="Start from a test's suggestion."),
    click.option("--schedule", help="plateau or cosine.  [default: plateau]"),
    click.option("--ema-decay", type=float, help="Of averaged weights.  [default: 0.99]"),
    step_options,
    click.option(
        "--run-dir", type=click.Path(path_type=Path), help="New directory.  [default: runs/]"
    ),
    click.option("--resume", is_flag=True, help="Go on with --run-dir, if it was begun."),
)  # fmt: skip


@cli.command()
@train_options
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="With --resume: this one, not the newest."
)
def train(
    data: Path | None, run_dir: Path | None, resume: bool, checkpoint: Path | None, **options: Any
) -> None:
    """Train a forecaster; the last line printed is its run directory.

    Several processes train together where torchrun starts them: torchrun --nproc-per-node 2 cli.py
    train ... Every configuration key, see train/config.py, can be set by --set or in --config.
    """
    from train import TFTTrainer
    from train.options import configure
    from train.run_dir import CONFIG
    from train.runs import read_config

    if resume and run_dir is None:
        raise click.UsageError("--resume needs --run-dir, the run to go on with")
    if checkpoint is not None and not resume:
        raise click.UsageError("--checkpoint needs --resume and --run-dir, the run to go on with")
    begun = resume and run_dir is not None and (run_dir / CONFIG).exists()
    saved = read_config(run_dir) if begun and run_dir is not None else None
    config, spec = configure(options, saved)
    if data is None:
        data = Path(saved["data"]["path"]) if saved is not None else built_in_fleet()
    trainer = TFTTrainer(config, spec, say)
    path = until_stopped(
        lambda stop: trainer.train(data, run_dir, resume=resume, checkpoint=checkpoint, stop=stop)
    )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's ranks one talks
        click.echo(path)


@cli.command("lr-find")
@step_options
@click.option(
    "--out-dir", type=click.Path(path_type=Path), default="lr-find", show_default=True,
    help="Folder for lr_find.png and lr_find.csv.",
)  # fmt: skip
def lr_find(data: Path | None, out_dir: Path, **options: Any) -> None:
    """Sweep the learning rate and suggest one; the last line printed is the suggestion."""
    from train import TFTTrainer
    from train.options import configure

    config, spec = configure(options)
    check_folder(out_dir)
    result = TFTTrainer(config, spec, say).find_lr(data or built_in_fleet())
    out_dir.mkdir(parents=True, exist_ok=True)
    result.write_csv(out_dir / "lr_find.csv")
    result.draw(out_dir / "lr_find.png")
    say(f"wrote {out_dir / 'lr_find.png'} and {out_dir / 'lr_find.csv'}; suggested learning rate:")
    click.echo(f"{result.suggestion:.3g}")


@cli.command("cross-validate")
@train_options
@click.option("--folds", type=click.IntRange(2), required=True, help="Trainings to compare.")
@click.option(
    "--windows", type=click.IntRange(1), default=2048, show_default=True, help="Most judged."
)
def cross_validate(
    data: Path | None, folds: int, windows: int, run_dir: Path | None, resume: bool, **options: Any
) -> None:
    """Train on the past, judge on what came next, --folds times along the time span.

    Each fold trains for --epochs or --max-minutes; the last line printed is the file of scores.
    """
    from report.folds import folds_text
    from train import TFTTrainer
    from train.cross_validate import cross_validate, saved_config
    from train.options import configure

    saved = saved_config(run_dir, resume)
    trainer = TFTTrainer(*configure(options, saved), say)
    data = data or (Path(saved["data"]["path"]) if saved is not None else built_in_fleet())
    path, result = until_stopped(
        lambda stop: cross_validate(trainer, data, folds, run_dir, resume, windows, stop)
    )
    click.echo(folds_text(result))
    click.echo(path)


@cli.command()
@RUN
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Table of history.")
@click.option(
    "--origins", "origins_file", type=click.Path(path_type=Path),
    help="CSV of server_name, origin (first tick to forecast).  [default: each server's latest]",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".parquet or .csv.")
@click.option("--quantiles", default="0.1,0.5,0.9", show_default=True, help="Levels to write.")
@click.option("--device", default="auto", show_default=True)
@column_options
def forecast(
    run: Path, data: Path, origins_file: Path | None, out: Path, quantiles: str, device: str,
    **options: Any
) -> None:  # fmt: skip
    """Forecast a table with the forecaster of a run directory RUN."""
    from data.forecasts import (
        check_levels,
        check_output,
        choose_origins,
        parse_levels,
        write_forecasts,
    )
    from train.runs import open_run

    levels = parse_levels(quantiles)
    check_output(out, *(path for path in (data, origins_file) if path is not None))
    opened = open_run(run, device)
    forecaster, schema = opened.forecaster, opened.forecaster.schema
    check_levels(levels, schema)
    spec = columns_of(opened, options)
    fleet = read(data, spec, forecaster)
    origins = choose_origins(origins_file, fleet, schema, spec.timezone, say)
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


def until_stopped(work: Callable[["StopRequest"], Any]) -> Any:
    """Do what SIGINT and SIGTERM stop after saving; exit as shells expect of them."""
    from train.signals import Stopped, StopRequest

    with StopRequest() as stop:
        try:
            return work(stop)
        except Stopped as stopped:
            stop.until_exit()
            say(str(stopped))
            sys.exit(stopped.exit_code)


def built_in_fleet() -> Path:
    """Return the folder of the built-in fleet, generated first where it is missing."""
    if not BUILT_IN.exists() or (BUILT_IN.is_dir() and not any(BUILT_IN.iterdir())):
        from data.synthetic import FleetSpec, write_fleet

        say(f"no --data and no {BUILT_IN}/: generating the built-in fleet")
        with ProgressLine("generating") as progress:
            write_fleet(FleetSpec(), BUILT_IN, progress=progress)
    return BUILT_IN


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


def say(line: str) -> None:
    """Tell a person something; standard output is for results."""
    click.echo(line, err=True)


if __name__ == "__main__":
    cli()
