"""Serving over HTTP: the socket, the guard before the application, an end that loses nothing."""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from serve.guard import Guard, Hosts, Limits

LEAST_TOKEN = 16  # characters
MOST_CONNECTIONS = 512  # at one time; further ones are answered 503
GRACE_SECONDS = 10  # for answers being sent when the service is asked to stop


def read_token(name: str | None, host: str) -> str | None:
    """Return the token clients must send, from the environment; None: none is asked for.

    Args:
        name: of the environment variable.
        host: where the service will listen.

    Raises:
        ValueError: the token is missing or weak, or the address is not loopback and there is none.
    """
    if name is None:
        if not is_loopback(host):
            raise ValueError(
                f"--host {host}: anyone on the network could read and feed the service; put a "
                "token into an environment variable and name it with --token-env, or listen at "
                "127.0.0.1"
            )
        return None
    token = os.environ.get(name, "")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"--token-env {name}: expected an environment variable of this name that holds at "
            f"least {LEAST_TOKEN} ASCII characters without spaces, such as the output of "
            '`python -c "import secrets; print(secrets.token_urlsafe())"`'
        )
    return token


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Open the socket, so that a port in use is told before anything is loaded.

    Raises:
        ValueError: the address cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}, port {port}: {error.strerror}; name another with --host or "
            "--port"
        ) from error


def serve_until_stopped(
    app: Any,
    listening: socket.socket,
    host: str,
    names: Sequence[str] = (),
    token: str | None = None,
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Answer until SIGTERM or SIGINT, then finish the answers being sent, and return.

    Args:
        app: ASGI application.
        listening: socket to accept connections from.
        host: the address it was opened for.
        names: further host names of the service.
        token: clients must send.
        limits: on bodies and rates.
        say: told where the service is.
    """
    config = uvicorn.Config(
        Guard(app, Hosts(host, names), token, limits),
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anyone may send X-Forwarded-For
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    port = listening.getsockname()[1]
    say(f"serving at http://{f'[{host}]' if ':' in host else host}:{port}")
    _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends as asked, with exit status 0; uvicorn's own would raise the signal once more."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal, and at once at the second."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.should_exit:
                sys.exit(128 + number)
            self.should_exit = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
