"""Parts of a fleet, so that many machines can share the forecasting of one."""

import re
from dataclasses import dataclass

from tft.schema import stable_hash


@dataclass(frozen=True)
class Shard:
    """One of so many parts; a server's part depends on its name and their number alone."""

    number: int = 1
    """From 1."""
    parts: int = 1

    def has(self, server: str) -> bool:
        """Tell whether a server is of this part."""
        return stable_hash(server) % self.parts == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Read i/N, part i of N.

    Raises:
        ValueError: it is not of that form, or i is not from 1 to N.
    """
    number, _, parts = text.partition("/")
    if re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text) and 1 <= int(number) <= int(parts):
        return Shard(int(number), int(parts))
    raise ValueError(f"shard {text!r}: expected i/N, part i of N with i from 1 to N, such as 1/4")
