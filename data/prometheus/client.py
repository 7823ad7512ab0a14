"""Ask a Prometheus over HTTP, again where that may help.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import base64
import gzip
import http.client
import itertools
import json
import os
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple
from urllib import error as urlerror
from urllib import request as urlrequest
from urllib.parse import urlencode, urlsplit

import numpy as np
import numpy.typing as npt

RETRIED = (408, 429, 500, 502, 503, 504)  # the server or the way to it is busy or down
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds; each pause is twice the one before
# Prometheus' two limits, https://github.com/prometheus/prometheus: points of one series
# (web/api/v1/api.go) and samples of one query (promql/engine.go).
TOO_LARGE = ("exceeded maximum resolution", "too many samples")
BROKEN = (OSError, EOFError, zlib.error, http.client.HTTPException)  # answers that break off
SHOWN = 300  # characters of an answer in a message


class TooLargeError(ValueError):
    """The server answers this query only for fewer ticks."""


class _TransientError(Exception):
    """Asking once more may help."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after
        """Seconds to wait, where the server says so."""


class Series(NamedTuple):
    """One series of an answer."""

    labels: Mapping[str, str]
    milliseconds: npt.NDArray[np.int64]  # [n] Unix time
    values: npt.NDArray[np.float64]  # [n]

    def __str__(self) -> str:
        """Write the labels as PromQL does."""
        pairs = (f'{name}="{value}"' for name, value in sorted(self.labels.items()))
        return "{" + ", ".join(pairs) + "}"


@dataclass(frozen=True)
class Endpoint:
    """Where a Prometheus is, and who asks."""

    url: str
    """Of the server, with the path it is under: `https://host/prometheus`."""
    authorization: str | None = field(default=None, repr=False)
    """The header of that name."""
    timeout_seconds: float = 30.0
    """For one query: the server is told to give up then, and the connection is given up."""
    attempts: int = 6
    """How often a query is asked before giving up."""
    option_prefix: str = "--"
    """What a command's options for credentials begin with; messages name them."""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        expected = f"url {self.url!r}: expected one such as http://localhost:9090"
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError as error:
            raise ValueError(f"{expected} ({error})") from error
        if not usable or re.search(r"[^!-~]", self.url):  # http.client takes no others
            raise ValueError(expected)
        if parts.username or parts.password:
            raise ValueError(
                "url holds a user or password, which would be printed and saved; leave them out "
                "and name an environment variable that holds user:password with "
                f"{self.option_prefix}basic-auth-env"
            )
        if parts.query or parts.fragment:
            raise ValueError(f"url {self.url!r}: leave out what comes after ? or #")
        if not 0 < self.timeout_seconds <= 3600:
            raise ValueError(f"timeout {self.timeout_seconds:g} must be over 0, at most 3600 s")
        if self.attempts < 1:
            raise ValueError(f"attempts {self.attempts} must be at least 1")


def authorization(
    token_env: str | None, basic_auth_env: str | None, option_prefix: str = "--"
) -> str | None:
    """Return the header for credentials held in an environment variable.

    Args:
        token_env: name of the variable that holds a bearer token.
        basic_auth_env: name of the variable that holds user:password.
        option_prefix: what the options that name them begin with.

    Raises:
        ValueError: both are named, or a variable is not set or not of that form.
    """
    if token_env and basic_auth_env:
        raise ValueError(
            f"{option_prefix}token-env and {option_prefix}basic-auth-env exclude each other; "
            "name one"
        )
    name = token_env or basic_auth_env
    if not name:
        return None
    secret = os.environ.get(name, "").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ValueError(
            f"environment variable {name} is not set, or holds no printable text; export it, "
            "without its value on the command line"
        )
    if token_env:
        return f"Bearer {secret}"
    if ":" not in secret:
        raise ValueError(f"environment variable {name}: expected user:password, found no colon")
    return f"Basic {base64.b64encode(secret.encode()).decode()}"


def connect(
    url: str,
    token_env: str | None = None,
    basic_auth_env: str | None = None,
    timeout_seconds: float = 30.0,
    say: Callable[[str], None] = lambda line: None,
    option_prefix: str = "--",
    stopping: threading.Event | None = None,
) -> "Client":
    """Return a client for what a person says at the command line; nothing is asked yet.

    Args:
        url: of the server.
        token_env: name of the environment variable that holds a bearer token.
        basic_auth_env: name of the one that holds user:password.
        timeout_seconds: for one query.
        say: told of failures and warnings, a line each.
        option_prefix: what the command's options for credentials begin with.
        stopping: once it is set, nothing more is asked.

    Raises:
        ValueError: one of them cannot be used.
    """
    header = authorization(token_env, basic_auth_env, option_prefix)
    endpoint = Endpoint(url, header, timeout_seconds, option_prefix=option_prefix)
    return Client(endpoint, say, stopping=stopping)


class _NoRedirect(urlrequest.HTTPRedirectHandler):
    """A redirect would take the credentials to another server; it becomes an HTTPError."""

    def redirect_request(
        self, req: urlrequest.Request, fp: IO[bytes], code: int, msg: str,
        headers: http.client.HTTPMessage, newurl: str,
    ) -> None:  # fmt: skip
        """Follow none."""


class Client:
    """Asks one Prometheus, one query at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        say: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], object] | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        """Keep what is needed; nothing is asked yet.

        Args:
            endpoint: whom to ask.
            say: told, a line each, of failures before a new attempt and of the server's warnings.
            sleep: waits so many seconds; by default, until `stopping` is set at the longest.
            stopping: once it is set, nothing more is asked.
        """
        self.endpoint, self._say = endpoint, say
        self._stopping = stopping or threading.Event()
        self._sleep = sleep or self._stopping.wait
        self._opener = urlrequest.build_opener(_NoRedirect)
        self._warned: set[str] = set()
        self.requests = 0
        """Sent so far, repeated ones included."""
        self.retries = 0
        """Of those, how many repeated one that failed."""

    def number(self, promql: str, at: int | None = None) -> float:
        """Return the value of a scalar query at a Unix time, or now by the server's clock."""
        form = {"query": promql} if at is None else {"query": promql, "time": str(at)}
        data = self._ask("/api/v1/query", form, promql)
        with self._expecting("one number", promql, data):
            if data["resultType"] != "scalar":
                raise ValueError
            return float(data["result"][1])

    def series(self, promql: str, first: int, last: int, step_seconds: int) -> list[Series]:
        """Return the series of a query evaluated at regular times.

        Args:
            promql: the query.
            first: the first time, Unix milliseconds.
            last: the last, both included.
            step_seconds: between two times.

        Raises:
            TooLargeError: the server refuses to answer so much at once.
            ValueError: it refuses the query, or answers something else than series of numbers.
            ConnectionError: no answer after all attempts.
            InterruptedError: it is to ask nothing more.
        """
        form = {
            "query": promql,
            "start": f"{first / 1000:.3f}",
            "end": f"{last / 1000:.3f}",
            "step": str(step_seconds),
        }
        data = self._ask("/api/v1/query_range", form, promql)
        with self._expecting("series of numbers", promql, data):
            if data["resultType"] != "matrix":
                raise ValueError
            return [_series(plain) for plain in data["result"]]

    def _ask(self, path: str, form: Mapping[str, str], promql: str) -> Any:
        """Return the data of an answer, asking again while that may help."""
        for attempt in itertools.count(1):
            if self._stopping.is_set():
                raise InterruptedError(f"{self.endpoint.url} is asked nothing more")
            try:
                self.requests += 1
                return self._once(path, form, promql)
            except _TransientError as failure:
                if attempt == self.endpoint.attempts:
                    raise ConnectionError(
                        f"{self.endpoint.url} failed {attempt} times, last: {failure}; query "
                        f"{promql}; run again later, what was fetched is kept"
                    ) from failure
                pause = FIRST_PAUSE * 2 ** (attempt - 1) if failure.after is None else failure.after
                pause = min(pause, LONGEST_PAUSE)
                self._say(f"{self.endpoint.url}: {failure}; asking again in {pause:.1f} s")
                self.retries += 1
                self._sleep(pause)
        raise AssertionError("unreachable")

    def _once(self, path: str, form: Mapping[str, str], promql: str) -> Any:
        timeout = self.endpoint.timeout_seconds
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if self.endpoint.authorization:
            headers["Authorization"] = self.endpoint.authorization
        body = urlencode({**form, "timeout": f"{timeout * 1000:.0f}ms"}).encode()
        request = urlrequest.Request(self.endpoint.url.rstrip("/") + path, body, headers)
        try:
            # The server gives up first, and says which query; this is for one that hangs.
            with self._opener.open(request, timeout=timeout + 1) as answer:
                return self._data(_json(answer), promql)
        except urlerror.HTTPError as error:
            with error:
                raise self._refused(error, promql) from error
        except urlerror.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise ValueError(
                    f"{self.endpoint.url}: {error.reason}; name a file of trusted certificates in "
                    "the environment variable SSL_CERT_FILE"
                ) from error
            raise _TransientError(str(error.reason)) from error
        except BROKEN as error:
            raise _TransientError(f"no whole answer ({error or type(error).__name__})") from error

    def _data(self, answer: Any, promql: str) -> Any:
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise self._unexpected("a Prometheus API answer", promql, answer)
        for warning in answer.get("warnings") or ():
            if str(warning) not in self._warned:
                self._warned.add(str(warning))
                self._say(f"{self.endpoint.url} warns: {warning}")
        return answer.get("data")

    def _refused(self, error: urlerror.HTTPError, promql: str) -> Exception:
        """Return what to raise for an HTTP status that is an error."""
        url, code, prefix = self.endpoint.url, error.code, self.endpoint.option_prefix
        if code in (401, 403):
            return ValueError(
                f"{url} answers {code}: not allowed; name an environment variable that holds a "
                f"token with {prefix}token-env, or user:password with {prefix}basic-auth-env"
            )
        if 300 <= code < 400:
            return ValueError(
                f"{url} redirects to {error.headers.get('Location')}; name that server's url"
            )
        kind, reason = "", f"HTTP status {code}"
        try:
            answer = _json(error)
        except (_TransientError, ValueError, *BROKEN):
            answer = None  # a proxy's page says no more than its status
        if isinstance(answer, dict) and answer.get("status") == "error":
            kind, reason = str(answer.get("errorType")), f"{answer.get('error')} ({code})"
        if kind == "timeout" or any(words in reason for words in TOO_LARGE):
            return TooLargeError(f"{url}: {reason}; query {promql}")
        if code in RETRIED:
            return _TransientError(reason, _retry_after(error.headers.get("Retry-After")))
        return ValueError(f"{url} refuses the query {promql}: {reason[:SHOWN]}")

    @contextmanager
    def _expecting(self, what: str, promql: str, data: Any) -> Iterator[None]:
        """Name what an answer of another form holds."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._unexpected(what, promql, data) from error

    def _unexpected(self, what: str, promql: str, found: Any) -> ValueError:
        shown = json.dumps(found)[:SHOWN]
        return ValueError(f"{self.endpoint.url} answers {shown}, expected {what}; query {promql}")


def _json(answer: http.client.HTTPResponse | urlerror.HTTPError) -> Any:
    """Read and decode the body of an answer."""
    body = answer.read()
    if answer.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    try:
        return json.loads(body)
    except ValueError as error:
        if body.lstrip()[:1] in (b"", b"{"):
            raise _TransientError(f"the answer breaks off after {len(body):,} bytes") from error
        shown = body[:SHOWN].decode(errors="replace")
        raise ValueError(
            f"{answer.url} answers {shown!r}, expected JSON; is that the url of a Prometheus?"
        ) from error


def _series(plain: Any) -> Series:
    times = np.array([float(time) for time, _ in plain["values"]], np.float64)
    values = np.array([float(value) for _, value in plain["values"]], np.float64)
    labels = {str(name): str(value) for name, value in plain["metric"].items()}
    return Series(labels, np.rint(times * 1000).astype(np.int64), values)


def _retry_after(header: str | None) -> float | None:
    """Return the seconds a server asks to wait for; a date, the other form, is not read."""
    return float(header) if header and re.fullmatch(r"\d{1,9}", header.strip()) else None
