"""The application: operations, errors as problem documents, a true OpenAPI document, the page."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from serve.problems import MEDIA_TYPE, ProblemError
from serve.routes import api, root
from serve.schemas import Feed, ProblemDocument
from serve.service import Service
from serve.turns import Turns

DASHBOARD = Path(__file__).with_name("dashboard")
MOST_ERRORS = 20  # of a request, told one by one
MOST_FEEDS, MOST_FORWARDS = 32, 8  # at work or waiting
REFS = "#/components/schemas/{model}"
WRONG = {  # what any operation may answer beside what it is for
    400: "The request cannot be read",
    401: "The token is missing or wrong",
    403: "Sent by a page of another site",
    404: "There is nothing of this name",
    408: "The body did not come in time",
    409: "There is no forecast, or no model, to do this with",
    413: "The body is too long",
    415: "The body is not JSON",
    421: "The Host header names another service",
    422: "The request asks for what cannot be",
    429: "The client asks too often",
    500: "A mistake of the service",
    503: "The service is not ready, or has too much to do",
}
DESCRIPTION = (
    "Forecasts of a fleet's metrics, as quantiles. Every answer names the model that made it and "
    "how old the data are; where there is no forecast it says why. Errors are RFC 9457 problem "
    "documents. A token, where the service was started with one, is sent as `Authorization: "
    "Bearer TOKEN`."
)


def create_app(
    service: Service, asks_token: bool = False, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """Build the application around a service, which starts and stops with it.

    Args:
        service: what answers.
        asks_token: whether the guard before the application asks for a token.
        routers: further operations.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    app = FastAPI(
        title="Fleet forecasts",
        version="1",
        description=DESCRIPTION,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={status: _problem_response(text) for status, text in WRONG.items()},
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.state.feeds = Turns("feeds", MOST_FEEDS)
    app.state.forwards = Turns("explanations and scenarios", MOST_FORWARDS)
    for router in (api, root, *routers):
        app.include_router(router)
    if DASHBOARD.is_dir():
        app.mount("/static", StaticFiles(directory=DASHBOARD))

        @app.get("/", include_in_schema=False)
        async def page() -> FileResponse:
            return FileResponse(DASHBOARD / "index.html")

    for kind in (ProblemError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_problem)
    app.openapi = lambda: _openapi(app, asks_token)  # type: ignore[method-assign]
    return app


async def _answer_problem(request: Request, error: Exception) -> Response:
    problem = _as_problem(error)
    body = problem.document(request.scope["path"])
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


def _as_problem(error: Exception) -> ProblemError:
    """Say what went wrong; of a mistake of ours no more than that, as the log has it."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException):
        return ProblemError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, RequestValidationError):
        found = error.errors()
        errors = [
            {"pointer": "/".join(str(part)[:80] for part in each["loc"]), "detail": each["msg"]}
            for each in found[:MOST_ERRORS]
        ]
        first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
        several = f" ({len(found)} places are wrong)" if len(found) > 1 else ""
        return ProblemError(422, first + several, errors)
    return ProblemError(500, "a mistake of the service; its log says more")


def _problem_response(text: str) -> dict[str, Any]:
    schema = {"$ref": REFS.format(model=ProblemDocument.__name__)}
    return {"description": text, "content": {MEDIA_TYPE: {"schema": schema}}}


def _openapi(app: FastAPI, asks_token: bool) -> dict[str, Any]:
    """Write the document once: FastAPI's own, and what it cannot know."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        _, more = models_json_schema(
            [(Feed, "validation"), (ProblemDocument, "serialization")], ref_template=REFS
        )
        document["components"]["schemas"] |= more["$defs"]
        if asks_token:
            document["components"]["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            document["security"] = [{"token": []}]
            document["paths"]["/healthz"]["get"]["security"] = []
        app.openapi_schema = document
    return app.openapi_schema
