"""Asks an ASGI application as a server would, within the process."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from serve.guard import App, Message

HOST = {"host": "localhost:8000"}
JSON = {"content-type": "application/json"}
FOREVER = 3600.0


class Answer(NamedTuple):
    """What an application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """What a problem document says."""
        assert self.headers["content-type"] == "application/problem+json"
        document = self.json()
        assert document["status"] == self.status
        return str(document["detail"])


def ask(
    app: App,
    target: str,
    method: str = "GET",
    body: Sequence[bytes] = (b"",),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = HOST,
    client: str = "127.0.0.1",
) -> Answer:
    """Send a request, its body in these pieces; one without any piece never ends."""
    sent: list[Message] = []
    pieces = list(body)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    path, _, query = target.partition("?")

    async def receive() -> Message:
        if not pieces:
            await asyncio.sleep(FOREVER)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": (client, 40000),
        "root_path": "",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode("ascii", "surrogateescape"),
        "query_string": query.encode("ascii"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
    }
    asyncio.run(app(scope, receive, send))
    start, rest = sent[0], sent[1:]
    head = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], head, b"".join(each.get("body", b"") for each in rest))


class Client:
    """Asks one application."""

    def __init__(self, app: App) -> None:
        self.app = app

    def get(self, target: str) -> Answer:
        return ask(self.app, target)

    def post(self, target: str, content: Any = None) -> Answer:
        body = b"" if content is None else json.dumps(content).encode()
        return ask(self.app, target, "POST", [body], HOST if content is None else {**HOST, **JSON})
