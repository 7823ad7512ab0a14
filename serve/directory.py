"""Who the servers are: their numbers, profiles and static values."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from serve.observations import Observation


class Given(NamedTuple):
    """Something a row said of its server."""

    value: Any
    at: int
    """The row's time, Unix milliseconds."""

    def or_newer(self, other: "Given | None") -> "Given":
        """Return the later of two; of two at one time the smaller value."""
        if other is None or other.at < self.at:
            return self
        if other.at > self.at:
            return other
        return self if self.value <= other.value else other


@dataclass(frozen=True)
class Server:
    """One server."""

    number: int
    """Stands for its name in rows."""
    name: str
    profile: Given | None = None
    static: Mapping[str, Given] = field(default_factory=dict)
    """By column; one that was never given is missing."""

    def told(self, row: Observation) -> "Server":
        """Return the server as it is after a row of its own."""
        at = row.timestamp_ms
        profile, static = self.profile, dict(self.static)
        if row.profile is not None and row.profile.strip():
            profile = Given(row.profile.strip(), at).or_newer(profile)
        for name, value in row.static.items():
            if value is not None and math.isfinite(value):
                given = Given(float(np.float32(value)), at)
                static[name] = given.or_newer(static.get(name))
        return replace(self, profile=profile, static=static)


class Directory:
    """Servers by name. A number is used again once its server is forgotten."""

    def __init__(self, servers: Iterable[Server], most: int) -> None:
        """Start with servers; there will be `most` at most."""
        self.most = most
        self._servers: dict[str, Server] = {}
        self._names: dict[int, str] = {}
        self.update(servers)

    def __len__(self) -> int:
        return len(self._servers)

    def find(self, names: Iterable[str] | None = None) -> tuple[Server, ...]:
        """Return the servers of some names, by name, without those unknown; None: all."""
        wanted = self._servers.keys() if names is None else {*names} & self._servers.keys()
        return tuple(self._servers[name] for name in sorted(wanted))

    def after(self, names: Sequence[str], rows: Sequence[Observation]) -> dict[str, Server]:
        """Return, by name, the servers of rows as they would be after them.

        Nothing is changed yet. A new server for which there is no room is left out.
        """
        told: dict[str, Server] = {}
        free = (number for number in count() if number not in self._names)
        room = self.most - len(self._servers)
        for name, row in zip(names, rows, strict=True):
            server = told.get(name) or self._servers.get(name)
            if server is None and room > 0:
                server = Server(next(free), name)
                room -= 1
            if server is not None:
                told[name] = server.told(row)
        return told

    def differing(self, servers: Iterable[Server], seen: Collection[int]) -> list[Server]:
        """Return those described anew, and those that are new with a number among `seen`."""
        found = []
        for server in servers:
            held = self._servers.get(server.name)
            if server.number in seen if held is None else held is not server and held != server:
                found.append(server)
        return found

    def update(self, servers: Iterable[Server]) -> None:
        """Take in servers, new ones and those described anew."""
        for server in servers:
            self._servers[server.name] = server
            self._names[server.number] = server.name

    def forget(self, numbers: Iterable[int]) -> None:
        """Leave servers out from now on."""
        for number in numbers:
            del self._servers[self._names.pop(number)]
