"""What a person meets at the command line: progress, and folders that cannot be written to."""

import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm


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
