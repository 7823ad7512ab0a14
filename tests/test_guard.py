"""What is asked of every request before the application sees it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from serve.guard import FEED, Guard, Hosts, Limits, Receive, Scope, Send
from tests.asgi import Answer
from tests.asgi import ask as send_to

TOKEN = "correct-horse-battery"


class Application:
    """Answers 200 with the size of the body, and counts what reached it."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        message = await receive()
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})


def ask(app: Guard, target: str = "/api/v1/fleet", method: str = "GET", **more: Any) -> Answer:
    return send_to(app, target, method, **more)


def guard(bound: str = "127.0.0.1", names: Sequence[str] = (), **options: Any) -> Guard:
    return Guard(Application(), Hosts(bound, names), **options)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "127.9.9.9"]
)
def test_loopback_is_always_the_service(host: str) -> None:
    assert ask(guard(), headers=[("host", host)]).status == 200


@pytest.mark.parametrize("host", ["evil.example", "192.168.0.5", "localhost.evil.example", "", "["])
def test_another_host_is_refused(host: str) -> None:
    """A page whose own name was made to point here (DNS rebinding) sends that name."""
    answer = ask(guard(), headers=[("host", host)])
    assert answer.status == 421
    assert "--allow-host" in answer.detail


def test_hosts_of_a_service_that_listens_on_the_network() -> None:
    named = guard("0.0.0.0", ["Monitor.example"])
    for host in ("192.168.0.5:8000", "[fe80::1]:8000", "monitor.example"):
        assert ask(named, headers=[("host", host)]).status == 200
    assert ask(named, headers=[("host", "other.example")]).status == 421
    one = guard("192.168.0.5")
    assert ask(one, headers=[("host", "192.168.0.5")]).status == 200
    assert ask(one, headers=[("host", "192.168.0.6")]).status == 421


@pytest.mark.parametrize("count", [0, 2])
def test_one_host_header_is_expected(count: int) -> None:
    answer = ask(guard(), headers=[("host", "localhost")] * count)
    assert (answer.status, answer.detail) == (400, f"expected one Host header, found {count}")


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
     f"Bearer {TOKEN[:-1]}", "Bearer \xff"],
)  # fmt: skip
def test_without_the_token_nothing_is_said(given: str | None) -> None:
    guarded = guard(token=TOKEN)
    headers = [("host", "localhost")] + ([("authorization", given)] if given is not None else [])
    for path in ("/api/v1/fleet", "/metrics", "/readyz", "/openapi.json", "/staticx", "/healthz/"):
        answer = ask(guarded, path, headers=headers)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert guarded.app.reached == 0  # type: ignore[attr-defined]


def test_the_token_opens() -> None:
    headers = [("host", "localhost"), ("authorization", f"bearer {TOKEN}")]
    assert ask(guard(token=TOKEN), headers=headers).status == 200
    assert ask(guard(token=TOKEN), headers=[*headers, headers[1]]).status == 401, "given twice"


@pytest.mark.parametrize("path", ["/", "/healthz", "/static/app.js"])
def test_the_page_and_the_probe_need_no_token(path: str) -> None:
    assert ask(guard(token=TOKEN), path).status == 200


@pytest.mark.parametrize(
    "pieces", [[b"x" * 101], [b"x" * 60, b"x" * 41], [b"x"] * 101, [b"x" * 60, b"x" * 60, b""]]
)
def test_a_long_body_is_refused_in_pieces_too(pieces: list[bytes]) -> None:
    """A chunked body names no length: what comes is counted."""
    guarded = guard(limits=Limits(body_bytes=100))
    answer = ask(guarded, method="POST", body=pieces)
    assert (answer.status, answer.detail) == (413, "the body is over 100 bytes; send it in parts")
    assert answer.headers["connection"] == "close"
    assert guarded.app.reached == guarded.held == 0  # type: ignore[attr-defined]
    assert ask(guarded, method="POST", body=[b"x" * 99, b"x"]).body == b"100"
    assert guarded.held == 0


@pytest.mark.parametrize("length", ["101", "9" * 30])
def test_a_body_announced_too_long_is_not_read(length: str) -> None:
    headers = [("host", "localhost"), ("content-length", length)]
    answer = ask(guard(limits=Limits(body_bytes=100)), method="POST", body=[], headers=headers)
    assert answer.status == 413


def test_a_feed_may_be_longer() -> None:
    guarded = guard(limits=Limits(body_bytes=10, feed_bytes=100))
    assert ask(guarded, FEED, "POST", body=[b"x" * 100]).status == 200
    assert ask(guarded, FEED, "POST", body=[b"x" * 101]).status == 413
    assert ask(guarded, FEED + "/", "POST", body=[b"x" * 11]).status == 413


def test_a_body_that_does_not_come_is_given_up() -> None:
    guarded = guard(limits=Limits(body_seconds=0.01))
    answer = ask(guarded, method="POST", body=[])
    assert (answer.status, answer.detail) == (408, "the body did not come within 0.01 s")


def test_bodies_of_all_clients_together_are_bounded() -> None:
    guarded = guard(limits=Limits(all_bodies_bytes=100))
    guarded.held = 80
    answer = ask(guarded, method="POST", body=[b"x" * 21])
    assert answer.status == 503 and answer.headers["retry-after"] == "1"
    assert ask(guarded, method="POST", body=[b"x" * 20]).status == 200
    assert guarded.held == 80


def test_an_application_that_fails_holds_no_bytes() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("of its own")

    guarded = Guard(failing, Hosts("127.0.0.1"))
    with pytest.raises(TimeoutError, match="of its own"):
        ask(guarded, method="POST", body=[b"x" * 20])
    assert guarded.held == 0


def test_a_client_that_asks_too_often_waits_and_others_do_not() -> None:
    now = 0.0
    limits = Limits(requests_per_second=2.0, burst=3)
    guarded = guard(limits=limits, monotonic=lambda: now)
    assert [ask(guarded).status for _ in range(5)] == [200, 200, 200, 429, 429]
    answer = ask(guarded)
    assert answer.headers["retry-after"] == "1" and "over 2 requests a second" in answer.detail
    assert ask(guarded, client="10.0.0.1").status == 200
    now = 1.0
    assert [ask(guarded).status for _ in range(3)] == [200, 200, 429]
    now = 1e6
    assert [ask(guarded).status for _ in range(4)] == [200, 200, 200, 429], "a burst at most"


def test_few_clients_are_remembered() -> None:
    guarded = guard(limits=replace(Limits(), clients=3))
    for number in range(10):
        ask(guarded, client=f"10.0.0.{number}")
    assert list(guarded.rates.buckets) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:8001"])
def test_a_page_of_another_site_changes_nothing(origin: str) -> None:
    """A browser sends a form to any address, the Host header being right; the origin tells."""
    headers = [("host", "localhost:8000"), ("origin", origin)]
    assert ask(guard(), "/api/v1/model/rollback", "POST", headers=headers).status == 403
    own = [("host", "localhost:8000"), ("origin", "http://localhost:8000")]
    assert ask(guard(), "/api/v1/model/rollback", "POST", headers=own).status == 200


def test_every_answer_confines_the_page() -> None:
    refused = ask(guard(), headers=[("host", "evil.example")])
    for answer in (ask(guard()), refused):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    assert "cache-control" not in ask(guard(), "/static/app.js").headers


def test_a_refusal_is_ascii_whatever_was_sent() -> None:
    answer = ask(guard(), "/%FF%E2%82%AC", headers=[("host", "\xff\xfe")])
    assert answer.body.isascii() and json.loads(answer.body)["instance"] == "/\ufffd\u20ac"
