"""The body of a feed: JSON into observations, each row refused or taken on its own."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.names import EXPECTED_NAME, is_name
from serve.observations import Observation, Rejected
from serve.problems import ProblemError
from serve.times import EXPECTED_TIME, milliseconds

MOST_TICKS = 20_000
MOST_SHOWN = 80  # characters of what was sent that are sent back
KEYS = ("timestamp", "server_name", "profile", "values", "static")
EXPECTED_BODY = (
    'expected {"ticks": [{"timestamp": "2026-01-05T12:00:00Z", "server_name": "web-01", '
    '"values": {"cpu_percent": 12.3}}]}'
)


class Rows(NamedTuple):
    """The rows of a feed."""

    sound: list[Observation]
    places: list[int]
    """Of the sound ones in the request."""
    rejected: list[Rejected]


def read_feed(body: bytes) -> Rows:
    """Read a request's rows; whether their values make sense is the state's to say.

    Raises:
        ProblemError: it is not JSON, or not a list of ticks, or too long a one.
    """
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else ascii(str(error))
        raise ProblemError(400, f"the body is not JSON: {reason[:200]}; {EXPECTED_BODY}") from error
    if not isinstance(content, dict) or list(content) != ["ticks"]:
        raise ProblemError(422, f"the body is no list of ticks; {EXPECTED_BODY}")
    ticks = content["ticks"]
    if not isinstance(ticks, list):
        raise ProblemError(422, f"ticks is no list; {EXPECTED_BODY}")
    if len(ticks) > MOST_TICKS:
        raise ProblemError(
            422, f"{len(ticks):,} ticks in one request; send at most {MOST_TICKS:,} at a time"
        )
    rows = Rows([], [], [])
    for place, tick in enumerate(ticks):
        try:
            rows.sound.append(_observation(tick))
            rows.places.append(place)
        except ValueError as error:
            rows.rejected.append(Rejected(place, str(error)))
    return rows


def _observation(tick: Any) -> Observation:
    """Read one row.

    Raises:
        ValueError: it is none; the message says where.
    """
    if not isinstance(tick, dict):
        raise ValueError(f"{_told(tick)} is no object; expected one with {', '.join(KEYS)}")
    unknown = [key for key in tick if key not in KEYS]
    if unknown:
        raise ValueError(f"unknown key {_told(unknown[0])}; expected {', '.join(KEYS)}")
    server, profile = tick.get("server_name"), tick.get("profile")
    for key, name in (("server_name", server), ("profile", profile)):
        if not is_name(name) and not (key == "profile" and name is None):
            raise ValueError(f"{key} {_told(name)}: {EXPECTED_NAME}")
    assert isinstance(server, str)
    when = milliseconds(tick.get("timestamp"))
    if when is None:
        raise ValueError(f"timestamp {_told(tick.get('timestamp'))}: {EXPECTED_TIME}")
    static = tick.get("static")
    return Observation(
        server=server,
        timestamp_ms=when,
        profile=profile,
        values=_numbers(tick.get("values"), "values"),
        static={} if static is None else _numbers(static, "static"),
    )


def _numbers(given: Any, key: str) -> Mapping[str, float | None]:
    if not isinstance(given, dict):
        raise ValueError(f"{key} {_told(given)}: expected an object of numbers by column")
    for name, value in given.items():
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{key} {_told(name)} is {_told(value)}: expected a number or null")
    return given


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number, send null")


def _told(given: Any) -> str:
    """Show what was sent, short and in ASCII; of a list or an object only that it is one."""
    if isinstance(given, (list, dict)):
        return "a list" if isinstance(given, list) else "an object"
    if isinstance(given, int) and abs(given) > 10**MOST_SHOWN:
        return "a huge number"
    return ascii(given[:MOST_SHOWN] if isinstance(given, str) else given)
