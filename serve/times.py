"""Times as the HTTP API says and reads them: RFC 3339 in UTC."""

import math
from datetime import UTC, datetime

EXPECTED_TIME = (
    "expected an RFC 3339 time with its offset, such as 2026-01-05T12:00:00Z, or Unix seconds"
)


def utc(seconds: float) -> str:
    """Write Unix seconds, cut to whole ones."""
    return datetime.fromtimestamp(math.floor(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(given: object) -> int | None:
    """Read a time as Unix milliseconds; None if it is none, or names no offset."""
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        return None
    try:
        if isinstance(given, str):
            time = datetime.fromisoformat(given)
            return None if time.tzinfo is None else math.floor(time.timestamp() * 1000)
        return math.floor(given * 1000)
    except (OverflowError, ValueError):
        return None
