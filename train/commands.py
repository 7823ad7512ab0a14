"""The commands that train: `train`, `lr-find` and `cross-validate`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from report.console import (
    DATA,
    ProgressLine,
    check_folder,
    column_options,
    say,
    with_options,
)

if TYPE_CHECKING:
    from train.signals import StopRequest

# Heavy imports are inside the commands that need them: --help is instant.
BUILT_IN = Path("training")
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
    click.option("--learning-rate", type=float, help="At the start.  [default: 0.006]"),
    click.option("--find-lr", "auto_lr_find", is_flag=True, help="Start from a test's suggestion."),
    click.option("--ema-decay", type=float, help="Of averaged weights.  [default: 0.99]"),
    step_options,
    click.option(
        "--run-dir", type=click.Path(path_type=Path), help="New directory.  [default: runs/]"
    ),
    click.option("--resume", is_flag=True, help="Go on with --run-dir, if it was begun."),
)  # fmt: skip


@click.command()
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


@click.command("lr-find")
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


@click.command("cross-validate")
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


def demo_run() -> Path:
    """Return the run of `make demo`'s settings in runs/demo, trained first or gone on with."""
    from train import TFTTrainer, TrainConfig

    config = TrainConfig(epochs=20, precision="bf16", windows_per_epoch=2048)
    trainer, data = TFTTrainer(config, say=say), built_in_fleet()
    run: Path = until_stopped(
        lambda stop: trainer.train(data, Path("runs/demo"), resume=True, stop=stop)
    )
    return run
