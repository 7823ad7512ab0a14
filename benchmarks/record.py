"""Keep an evaluated run as a recorded result: `python -m benchmarks.record RUN NAME`."""

import json
import shutil
from pathlib import Path

import click

from benchmarks.machine import ROOT, measured_on
from tft.files import write_atomically

RESULTS = ROOT / "benchmarks" / "results"


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("name")
@click.option("--picture", is_flag=True, help="Keep its fan chart as the README's picture too.")
def record(run: Path, name: str, picture: bool) -> None:
    """Write benchmarks/results/NAME.json from what `train` and `evaluate` left in RUN."""
    training = json.loads((run / "training_info.json").read_text())
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    content = {"on": measured_on(), "training": training, "evaluation": evaluation}
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    if picture:
        shutil.copy(run / "evaluation" / "forecasts.png", RESULTS / "forecasts.png")
    click.echo(RESULTS / f"{name}.json")


if __name__ == "__main__":
    record()
