"""An option that takes several sizes, such as `--servers 1,20,160`."""

import click


def parse_sizes(_: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """Read whole numbers from 1, separated by commas; return each once, the smallest first."""
    try:
        sizes = tuple(sorted({int(size) for size in text.split(",")}))
    except ValueError:
        sizes = (0,)
    if sizes[0] < 1:
        raise click.BadParameter(f"{text!r}; expected numbers from 1, such as {option.default}")
    return sizes
