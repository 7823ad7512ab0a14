"""What every request must pass before it is looked at: pure ASGI, no framework needed.

In this order: the Host header (a name the service is known by, so that no page of another site can
reach it by pointing its own name here), the rate of the client, the token, the origin of what
changes something, the size of the body. Every answer leaves with headers that confine the page.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

from serve.problems import MEDIA_TYPE, ProblemError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FEED = "/api/v1/feed"
# The page holds no secret, and asks a person for the token; a probe asks only whether all lives.
OPEN_PATHS, STATIC = ("/", "/healthz"), "/static/"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
CONFINING = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
CLOSE = {"Connection": "close"}  # what is left of a body is not read


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for."""

    feed_bytes: int = 8 * 2**20
    """Body of a feed."""
    body_bytes: int = 64 * 2**10
    """Any other body."""
    all_bodies_bytes: int = 64 * 2**20
    """Bodies held at one time, of all clients."""
    body_seconds: float = 30.0
    """Time in which a body must have come."""
    requests_per_second: float = 500.0
    """Of one address, in the long run."""
    burst: int = 1_000
    """Of one address, at once."""
    clients: int = 10_000
    """Addresses remembered; of more, the one that was longest silent is forgotten."""


class Hosts:
    """The names and addresses a service answers to; the port is anyone's, as proxies change it."""

    def __init__(self, bound: str, names: Collection[str] = ()) -> None:
        """Answer to an address, and to loopback always.

        Args:
            bound: address the service listens at; 0.0.0.0 or :: are all of the machine's.
            names: further host names, such as the one a proxy passes on.
        """
        self.names = {"localhost", bound.lower(), *(name.lower() for name in names)}
        address = _address(bound)
        self.every_address = address is not None and address.is_unspecified

    def check(self, given: list[bytes]) -> str:
        """Return the Host header of a request.

        Raises:
            ProblemError: there is not exactly one, or it is of another service.
        """
        if len(given) != 1:
            raise ProblemError(400, f"expected one Host header, found {len(given)}")
        host = given[0].decode("latin-1").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        address = _address(name)
        known = name in self.names or (
            address is not None and (address.is_loopback or self.every_address)
        )
        if not known:
            raise ProblemError(
                421,
                f"host {ascii(name[:80])} is none of this service; ask it by its address, or start "
                "it with --allow-host",
            )
        return host


class Guard:
    """Lets through to an application what passes every check."""

    def __init__(
        self,
        app: App,
        hosts: Hosts,
        token: str | None = None,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand before an application.

        Args:
            app: what is guarded.
            hosts: names of the service.
            token: expected as `Authorization: Bearer TOKEN`; None: nobody is asked for one.
            limits: on bodies and rates.
            monotonic: clock of the rates, in seconds.
        """
        self.app, self.hosts, self.limits = app, hosts, limits or Limits()
        self.token = None if token is None else _digest(token.encode())
        self.rates = Rates(self.limits, monotonic)
        self.held = 0  # bytes of bodies that are being read or answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on, or answer with what is wrong with it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            send = _confined(send, kept=scope["path"].startswith(STATIC))
            try:
                self._check(scope)
                await self._pass_on(scope, receive, send)
            except ProblemError as problem:
                await refuse(problem, scope["path"], send)
        else:
            await send({"type": "websocket.close"})

    def _check(self, scope: Scope) -> None:
        """Raise what can be seen without the body."""
        host = self.hosts.check(_headers(scope, b"host"))
        self.rates.take(scope["client"][0] if scope.get("client") else "")
        path: str = scope["path"]
        if self.token is not None and path not in OPEN_PATHS and not path.startswith(STATIC):
            self._check_token(_headers(scope, b"authorization"))
        if scope["method"] not in SAFE_METHODS:
            _check_origin(_headers(scope, b"origin"), host)

    def _check_token(self, given: list[bytes]) -> None:
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        same = hmac.compare_digest(_digest(token.strip()), self.token or b"")
        if not same or scheme.lower() != b"bearer":
            raise ProblemError(
                401,
                "this service asks for a token: send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, whatever its encoding says of its length, and hand it over whole."""
        limit = self.limits.feed_bytes if scope["path"] == FEED else self.limits.body_bytes
        length = b"".join(_headers(scope, b"content-length"))
        if length.isdigit() and (len(length) > 20 or int(length) > limit):
            raise _too_long(limit)
        body = bytearray()
        try:
            if await self._read(receive, limit, body):
                await self.app(scope, _replay(bytes(body), receive), send)
        finally:
            self.held -= len(body)

    async def _read(self, receive: Receive, limit: int, body: bytearray) -> bool:
        """Append a body to `body`, counted as held; tell whether all of it came."""
        seconds, more = self.limits.body_seconds, True
        try:
            async with asyncio.timeout(seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    part = message.get("body", b"")
                    body += part
                    self.held += len(part)
                    if len(body) > limit:
                        raise _too_long(limit)
                    if self.held > self.limits.all_bodies_bytes:
                        again = {**CLOSE, "Retry-After": "1"}
                        raise ProblemError(503, "too many large requests at once", (), again)
                    more = message.get("more_body", False)
        except TimeoutError as error:
            raise ProblemError(
                408, f"the body did not come within {seconds:g} s", (), CLOSE
            ) from error
        return True


class Rates:
    """A bucket of requests for each address: it holds a burst, and refills at the rate."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.limits, self.monotonic = limits, monotonic
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, at what time

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            ProblemError: the address has asked too often.
        """
        now, rate = self.monotonic(), self.limits.requests_per_second
        left, then = self.buckets.pop(client, (float(self.limits.burst), now))
        left = min(float(self.limits.burst), left + (now - then) * rate)
        self.buckets[client] = (left - 1.0 if left >= 1.0 else left, now)
        if len(self.buckets) > self.limits.clients:
            self.buckets.popitem(last=False)
        if left < 1.0:
            raise ProblemError(
                429,
                f"over {rate:g} requests a second; ask less often",
                headers={"Retry-After": str(max(1, round((1.0 - left) / rate)))},
            )


async def refuse(problem: ProblemError, path: str, send: Send) -> None:
    """Answer with a problem document."""
    body = problem.document(path)
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **problem.headers}
    plain = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": plain})
    await send({"type": "http.response.body", "body": body})


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


def _digest(token: bytes) -> bytes:
    """Hash a token: digests are of one length, which a comparison would tell otherwise."""
    return hashlib.sha256(token).digest()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _check_origin(given: list[bytes], host: str) -> None:
    """Refuse what a page of another site lets a browser send; other clients name no origin."""
    for origin in given:
        if origin.decode("latin-1").lower().partition("://")[2] != host:
            raise ProblemError(
                403, f"a page of {ascii(origin[:80].decode('latin-1'))} may not do this"
            )


def _too_long(limit: int) -> ProblemError:
    return ProblemError(413, f"the body is over {limit:,} bytes; send it in parts", (), CLOSE)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give out a body that was read already, then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _confined(send: Send, kept: bool) -> Send:
    """Add the headers of every answer; one that is not `kept` is stored nowhere."""
    more = CONFINING if kept else [*CONFINING, (b"cache-control", b"no-store")]

    async def confined(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return confined
