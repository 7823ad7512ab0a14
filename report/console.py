"""What a person meets at the command line: shared options, lines, progress, refused folders."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

DATA = click.option("--data", type=click.Path(path_type=Path), help="Table or folder of tables.")


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


def say(line: str) -> None:
    """Tell a person something; standard output is for results."""
    click.echo(line, err=True)


class ProgressLine:
    """A bar on a terminal; elsewhere one line when it begins."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> Callable[[float], None]:
        """Begin; returns what to call with the fraction done."""
        terminal = sys.stderr.isatty()
        if not terminal:
            print(self.what, file=sys.stderr, flush=True)
        self.bar = tqdm(
            total=1.0, desc=self.what, disable=not terminal, leave=False,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}",
        )  # fmt: skip
        return lambda fraction: (self.bar.update(fraction - self.bar.n), None)[1]

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.bar.close()


def check_folder(path: Path) -> None:
    """Refuse a folder to write to that cannot be one, before any work is done."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder with --out-dir")
