"""The command that runs the live demo; nothing heavy is imported before it runs."""

import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import click

from serve.commands import FILE, check_extra


def has_desktop() -> bool:
    """Tell whether a person sits before a desktop: others have no use for a browser."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stderr.isatty() and (sys.platform in ("darwin", "win32") or bool(display))


def demo_command(find_model: Callable[[], Path]) -> click.Command:
    """Return the command `demo`.

    Args:
        find_model: returns the run directory of the demo's model, trained first if it must be.
    """

    @click.command("demo")
    @click.option("--run", type=click.Path(path_type=Path), help="Run to use.  [default: its own]")
    @click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
    @click.option(
        "--tick-seconds", type=click.FloatRange(0.2, 300), default=2.0, show_default=True,
        help="Time that 5 simulated minutes take.",
    )  # fmt: skip
    @click.option("--rules", type=FILE, help="TOML file of alert rules.")
    @click.option(
        "--browser/--no-browser", default=has_desktop,
        help="Open the page.  [default: from a terminal on a desktop]",
    )  # fmt: skip
    def demo(
        run: Path | None, port: int, tick_seconds: float, rules: Path | None, browser: bool
    ) -> None:
        """Serve a simulated fleet in fast motion, with a page to switch its troubles on.

        The first time, a model is trained for it, which takes some minutes.
        """
        check_extra()
        from serve.demo import run_demo

        run_demo(
            find_model if run is None else lambda: run,
            port,
            tick_seconds,
            lambda line: click.echo(line, err=True),
            rules,
            show=webbrowser.open if browser else None,
        )

    return demo
