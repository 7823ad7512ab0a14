"""Which names of servers and profiles a client may use."""

import re

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}$"
EXPECTED_NAME = (
    "expected letters, digits and . _ : - only, at most 128 of them, not beginning with . : or -"
)
_NAME = re.compile(NAME_PATTERN)


def is_name(text: object) -> bool:
    """Tell whether something is a name of allow-listed characters."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None
