"""The HTTP API: each function is one operation, its docstring what the OpenAPI document says.

What is cheap is answered at once from the newest rendering; what touches the disk or the network
goes to a thread, so that no reader waits for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from serve import schemas
from serve.ahead import is_stale
from serve.answers import alert_told
from serve.exposition import CONTENT_TYPE
from serve.measured import MEASURED
from serve.names import NAME_PATTERN
from serve.outlook import ModelIdentity
from serve.problems import ProblemError
from serve.rendering import Rendering, answer, listed, member, plain
from serve.service import Service, Waiting
from serve.times import utc
from serve.turns import Turns

SENT_AT_ONCE = 256  # servers; the answer on more is sent in parts


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _feeds(request: Request) -> Turns:
    turns: Turns = request.app.state.feeds
    return turns


async def _forwards(request: Request) -> Turns:
    turns: Turns = request.app.state.forwards
    return turns


Served = Annotated[Service, Depends(_service)]
Feeds = Annotated[Turns, Depends(_feeds)]
Forwards = Annotated[Turns, Depends(_forwards)]
ServerName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["web-01"])]
api = APIRouter(prefix="/api/v1")
root = APIRouter()

FEED_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Feed"}}},
    }
}


@api.post("/feed", response_model=schemas.FeedAnswer, openapi_extra=FEED_BODY)
async def feed(request: Request, service: Served, feeds: Feeds) -> Response:
    """Take in ticks. What is accepted is on disk; sending it again changes nothing."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ProblemError(415, "expected JSON: send the header Content-Type: application/json")
    body = await request.body()
    receipt = await feeds.take(lambda: service.accept(body))
    return _answered(service, service.identity, receipt)


@api.get("/fleet", response_model=schemas.FleetAnswer)
async def fleet(service: Served) -> Response:
    """Return every server's chance of trouble by hours ahead, the ones in trouble first."""
    now, rendering = service.clock(), service.shown.rendering
    unknown = dict.fromkeys(("origin", "worst_metric", "chance_by_hour", "first_breach"))
    waiting = [
        plain(_waiting(each, service) | {"over": []} | unknown)
        for each in service.waiting(rendering).values()
    ]
    members = (
        member("metrics", rendering.outlook.metrics),
        member("hours", rendering.hours),
    )
    return _listed(_head(service, rendering), members, [*rendering.fleet(now), *waiting])


@api.get("/forecasts", response_model=schemas.ForecastsAnswer)
async def forecasts(
    service: Served,
    server: Annotated[list[schemas.Name] | None, Query(max_length=100)] = None,
    metric: Annotated[list[str] | None, Query(max_length=100)] = None,
    quantile: Annotated[list[schemas.Level] | None, Query(max_length=100)] = None,
    horizon_minutes: Annotated[float | None, Query(gt=0, le=1e6)] = None,
) -> Response:
    """Return forecasts, of everything or of what is asked for.

    Numbers have six significant digits. `quantile` must be among the model's; without it 0.1, 0.5
    and 0.9 are told. `horizon_minutes` is rounded up to whole ticks.
    """
    now, rendering = service.clock(), service.shown.rendering
    outlook = rendering.outlook
    columns = None if metric is None else _places(metric, outlook.metrics, "metric")
    levels = None if quantile is None else _levels(quantile, rendering)
    steps = None if horizon_minutes is None else rendering.steps(horizon_minutes)
    nothing: dict[str, Any] = {"first_tick": None, "metrics": []}
    found = service.waiting(rendering).items()
    waiting = {name: plain(_waiting(each, service) | nothing) for name, each in found}
    asked = [*outlook.servers, *waiting] if server is None else list(dict.fromkeys(server))
    for name in asked:
        _check_known(name, rendering, waiting)

    def entries() -> Iterator[bytes]:
        for name in asked:
            row = rendering.rows.get(name)
            if row is None:
                yield waiting[name]
            else:
                yield b"{" + rendering.forecast(row, now, columns, levels, steps) + b"}"

    members = (
        member("made_at", utc(outlook.made_at) if outlook.made_at else None),
        member("step_seconds", outlook.step_seconds),
    )
    head = _head(service, rendering)
    if len(asked) > SENT_AT_ONCE:
        return StreamingResponse(_parts(head, members, entries()), media_type="application/json")
    if columns is levels is steps is None:
        return _json(answer(head, *members, listed("servers", entries())))
    written = await run_in_threadpool(lambda: list(entries()))
    return _json(answer(head, *members, listed("servers", written)))


@api.get("/servers/{name}", response_model=schemas.ServerAnswer)
async def server(name: ServerName, service: Served) -> Response:
    """Return a server's last 24 hours, its forecast with every quantile, and its breaches."""
    now, shown = service.clock(), service.shown
    rendering = shown.rendering
    row, waiting = rendering.rows.get(name), service.waiting(rendering)
    _check_known(name, rendering, waiting)
    history = await run_in_threadpool(service.history, name)
    if row is None:
        nothing: dict[str, Any] = {"first_tick": None, "metrics": []}
        forecast, breaches = plain(_waiting(waiting[name], service) | nothing)[1:-1], []
    else:
        forecast = rendering.forecast(row, now, levels=range(len(rendering.outlook.levels)))
        breaches = rendering.breaches(row)
    alerts = [alert_told(alert) for alert in shown.alerts if alert.server == name]
    rest = plain({"breaches": breaches, "alerts": alerts})[1:]
    entry = b'"server":{' + forecast + b',"history":' + history + b"," + rest
    return _json(answer(_head(service, rendering), entry))


@api.get("/alerts", response_model=schemas.AlertsAnswer)
async def alerts(service: Served) -> Response:
    """Return the alerts there are, and how alerts did when the model was evaluated."""
    shown = service.shown
    members = {
        "alerts": [alert_told(alert) for alert in shown.alerts],
        "measured": service.measured_alerts(),
        "how_measured": MEASURED,
        "not_watched": service.not_watched,
    }
    return _json(answer(_head(service, shown.rendering), *_members(members)))


@api.get("/explain/{name}", response_model=schemas.ExplainAnswer)
async def explain(name: ServerName, service: Served, forwards: Forwards) -> Response:
    """Return which variables and which past hours a server's forecast looks at now."""
    _check_reported(name, service)
    return _answered(service, *await forwards.take(lambda: service.explain(name)))


@api.post("/scenario", response_model=schemas.ScenarioAnswer)
async def scenario(asked: schemas.ScenarioRequest, service: Served, forwards: Forwards) -> Response:
    """Return the forecast as it would be had some metrics been otherwise, beside what it is."""
    for name in asked.servers:
        _check_reported(name, service)
    return _answered(service, *await forwards.take(lambda: service.scenario(asked)))


@api.get("/model", response_model=schemas.ModelAnswer)
async def model(service: Served) -> Response:
    """Return what forecasts, how it was measured, and how its forecasts have done since."""
    return _answered(service, service.identity, await run_in_threadpool(service.model))


@api.post("/model/reload", response_model=schemas.ModelAnswer)
async def reload(
    service: Served, forwards: Forwards, asked: schemas.ReloadRequest | None = None
) -> Response:
    """Load a model of the models directory, or the current one anew, and forecast with it."""
    name = None if asked is None else asked.name
    told = await forwards.take(lambda: service.reload(name))
    return _answered(service, service.identity, told)  # the identity is asked for after the swap


@api.post("/model/rollback", response_model=schemas.ModelAnswer)
async def rollback(service: Served, forwards: Forwards) -> Response:
    """Return to the model before the current one."""
    told = await forwards.take(service.rollback)
    return _answered(service, service.identity, told)


@root.get("/healthz", response_model=schemas.Alive)
async def healthz() -> Response:
    """Say that the process answers."""
    return _json(plain({"status": "alive"}))


@root.get("/readyz", response_model=schemas.Ready)
async def readyz(service: Served) -> Response:
    """Say whether there are forecasts to be read, and that the last tick brought one."""
    trouble = service.trouble()
    if trouble is not None:
        raise ProblemError(503, trouble, headers={"Retry-After": "5"})
    return _answered(service, service.identity, {"status": "ready"})


@root.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Served) -> Response:
    """Return the fleet's outlook and the service's own counters for Prometheus."""
    text = await run_in_threadpool(service.exposition)
    return Response(text, media_type=CONTENT_TYPE)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _members(content: dict[str, Any]) -> list[bytes]:
    return [member(name, value) for name, value in content.items()]


def _head(service: Service, rendering: Rendering) -> dict[str, Any]:
    return service.head(rendering.outlook.model)


def _answered(service: Service, model: ModelIdentity, content: dict[str, Any]) -> Response:
    """Answer what rests on no outlook."""
    return _json(answer(service.head(model), *_members(content)))


def _listed(head: dict[str, Any], members: Sequence[bytes], entries: Sequence[bytes]) -> Response:
    """Answer with a list of servers, in parts if it is long."""
    if len(entries) <= SENT_AT_ONCE:
        return _json(answer(head, *members, listed("servers", entries)))
    return StreamingResponse(_parts(head, members, entries), media_type="application/json")


def _parts(
    head: dict[str, Any], members: Sequence[bytes], entries: Iterable[bytes]
) -> Iterator[bytes]:
    """Cut an answer with a list of servers into parts; nobody holds all of it."""
    yield answer(head, *members, b'"servers":[')[:-1]
    left, comma = iter(entries), b""
    while part := list(islice(left, SENT_AT_ONCE)):
        yield comma + b",".join(part)
        comma = b","
    yield b"]}"


def _waiting(server: Waiting, service: Service) -> dict[str, Any]:
    """Describe a server that has reported, but has no place in an outlook yet."""
    step = service.schema.step_seconds
    return {
        "name": server.name,
        "profile": server.profile,
        "status": "waiting",
        "reason": "its first forecast is being made",
        "stale": is_stale(server.last_tick + 1, step, service.clock()),
        "last_tick": utc(server.last_tick * step),
    }


def _check_reported(name: str, service: Service) -> None:
    rendering = service.shown.rendering
    _check_known(name, rendering, service.waiting(rendering))


def _check_known(name: str, rendering: Rendering, waiting: Iterable[str]) -> None:
    if name not in rendering.rows and name not in waiting:
        raise ProblemError(
            404, f"server {name!r} has never reported; GET /api/v1/fleet lists those that have"
        )


def _places(asked: Sequence[str], known: Sequence[str], what: str) -> list[int]:
    """Return where the names asked for stand, each once."""
    for name in asked:
        if name not in known:
            told = ascii(name[:80])
            raise ProblemError(404, f"{what} {told} is not forecast; expected {', '.join(known)}")
    return [known.index(name) for name in dict.fromkeys(asked)]


def _levels(asked: Sequence[float], rendering: Rendering) -> list[int]:
    known = [f"{level:g}" for level in rendering.outlook.levels]
    return _places([f"{level:g}" for level in asked], known, "quantile")
