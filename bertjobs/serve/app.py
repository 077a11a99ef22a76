"""The routes, on FastAPI: each reads a request, lets the engine compute, and answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from bertjobs import __version__
from bertjobs.errors import nearest
from bertjobs.serve import kserve, tensorflow_serving
from bertjobs.serve.body import read_body
from bertjobs.serve.computation import Computation, Reply, reply
from bertjobs.serve.engine import Engine
from bertjobs.serve.gate import Gate, State, answer_refusal, as_refusal
from bertjobs.serve.limits import Limits, check_size
from bertjobs.serve.metrics import CONTENT_TYPE, Metrics
from bertjobs.serve.models import Models
from bertjobs.serve.page import PAGE, PAGE_HEADERS
from bertjobs.serve.refusal import GONE, Refusal
from bertjobs.serve.served import MASKS, Served
from bertjobs.serve.texts import TEXT_ROUTES, TextRoute

READ = ["GET", "HEAD"]
"""Methods of the routes that only say something; load balancers ask with HEAD."""


@dataclass(frozen=True)
class Parts:
    """What the routes work with.

    Attributes:
        desk: one thread that reads texts and words answers.
    """

    models: Models
    engine: Engine
    limits: Limits
    metrics: Metrics
    state: State
    desk: ThreadPoolExecutor

    async def answer(self, request: Request, prepare: Callable[[bytes], Computation]) -> Response:
        """Read the body, make work of it, compute, and answer.

        Raises:
            Refusal: at any of these.
        """
        body = await read_body(request, self.limits)
        loop = asyncio.get_running_loop()
        asked = await loop.run_in_executor(self.desk, prepare, body)
        request.scope["bertjobs.model"] = asked.scorer.model
        check_size(asked.rows, self.limits)
        outputs = asyncio.wrap_future(self.engine.submit(asked.scorer, asked.rows))
        await _first_of(outputs, request)
        return _response(await loop.run_in_executor(self.desk, asked.finish, outputs.result()))


async def _first_of(outputs: asyncio.Future[Any], request: Request) -> None:
    """Wait for the outputs, unless the client hangs up before.

    Raises:
        Refusal: it did.
    """
    hung_up = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((outputs, hung_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        hung_up.cancel()
        if not outputs.done():
            outputs.cancel()
    if outputs.cancelled():
        raise Refusal("the client hung up", status=GONE)


async def _hang_up(request: Request) -> None:
    """Wait until the client has hung up; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(made: Reply) -> Response:
    return Response(made.body, media_type=made.content_type, headers=made.headers)


def make_app(parts: Parts, token: str) -> Gate:
    """The application; ``token`` is what requests have to show, "" if none."""
    app = FastAPI(title="bertjobs", version=__version__, docs_url=None, redoc_url=None)
    for kind in (Refusal, HTTPException, Exception):
        app.add_exception_handler(kind, partial(_refuse, app))
    _add_health(app, parts)
    _add_kserve(app, parts)
    _add_tensorflow_serving(app, parts)
    for route in TEXT_ROUTES:
        _add_text_route(app, parts, route)
    _add_pages(app, parts)
    return Gate(app, parts.state, parts.limits, parts.metrics, token)


async def _refuse(app: FastAPI, request: Request, error: Exception) -> Response:
    """What is answered to an error, in the form that the route's clients expect."""
    headers: list[tuple[bytes, bytes]] = []  # as the methods that a route has
    if isinstance(error, HTTPException):
        path = request.url.path
        known = [str(getattr(route, "path", "")) for route in app.routes]
        hint = nearest(path[:100], known) if error.status_code == 404 else None
        headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        error = Refusal(f"{request.method} {path[:100]}: {error.detail}", status=error.status_code, hint=hint)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await answer_refusal(as_refusal(error), request.scope, send)
    response = Response(sent[1]["body"], status_code=sent[0]["status"])
    response.raw_headers = [*sent[0]["headers"], *headers]
    return response


def _add_pages(app: FastAPI, parts: Parts) -> None:
    async def metrics() -> Response:
        return Response(parts.metrics.page(), media_type=CONTENT_TYPE)

    async def page() -> Response:
        return Response(PAGE, media_type="text/html", headers=PAGE_HEADERS)

    app.add_api_route("/metrics", metrics, methods=READ)
    app.add_api_route("/", page, methods=READ)


def _add_health(app: FastAPI, parts: Parts) -> None:
    async def live() -> Response:
        is_live = parts.engine.is_alive
        return Response(status_code=200 if is_live else 503)

    async def ready() -> Response:
        is_ready = parts.engine.is_alive and not parts.state.draining
        return Response(status_code=200 if is_ready else 503)

    app.add_api_route("/v2/health/live", live, methods=READ)
    app.add_api_route("/v2/health/ready", ready, methods=READ)


def _add_kserve(app: FastAPI, parts: Parts) -> None:
    async def server() -> Response:
        return _response(reply(kserve.server_metadata()))

    async def metadata(name: str, version: str | None = None) -> Response:
        return _response(reply(kserve.model_metadata(parts.models.get(name, version))))

    async def model_ready(name: str, version: str | None = None) -> Response:
        parts.models.get(name, version)
        return Response(status_code=503 if parts.state.draining else 200)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        served = parts.models.get(name, version)
        length = request.headers.get(kserve.HEADER_LENGTH)
        return await parts.answer(request, lambda body: kserve.infer(body, length, served, parts.limits))

    app.add_api_route("/v2", server, methods=READ)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(path, metadata, methods=READ)
        app.add_api_route(f"{path}/ready", model_ready, methods=READ)
        app.add_api_route(f"{path}/infer", infer, methods=["POST"])


def _add_tensorflow_serving(app: FastAPI, parts: Parts) -> None:
    began = int(time.time())

    async def predict(request: Request, name: str, version: str | None = None) -> Response:
        served = parts.models.get(name, version)
        return await parts.answer(request, lambda body: tensorflow_serving.predict(body, served, parts.limits))

    async def models() -> Response:
        return _response(reply({"object": "list", "data": [_listed(one, began) for one in parts.models.all()]}))

    async def model(name: str) -> Response:
        served = parts.models.get(name)
        return _response(reply(_listed(served, began) | tensorflow_serving.model_status(served)))

    app.add_api_route("/v1/models/{name}:predict", predict, methods=["POST"])
    app.add_api_route("/v1/models/{name}/versions/{version}:predict", predict, methods=["POST"])
    app.add_api_route("/v1/models", models, methods=READ)
    app.add_api_route("/v1/models/{name}", model, methods=READ)


def _listed(served: Served, began: int) -> dict[str, Any]:
    """A model as OpenAI lists it, and what the page needs to know."""
    routes = [route.path for route in TEXT_ROUTES if served.kind in route.kinds]
    if MASKS not in served.asks:
        routes = [path for path in routes if path != "/fill-mask"]
    return {
        "id": served.name,
        "object": "model",
        "created": began,
        "owned_by": "bertjobs",
        "version": str(served.version),
        "kind": served.kind,
        "task": served.task,
        "labels": list(served.labels),
        "routes": routes,
    }


def _add_text_route(app: FastAPI, parts: Parts, route: TextRoute) -> None:
    def prepare(body: bytes) -> Computation:
        fields = route.read(body)
        served = parts.models.of_kinds(route.kinds, fields.content.get("model"))
        return route.prepare(fields, served, parts.limits)

    async def answer(request: Request) -> Response:
        return await parts.answer(request, prepare)

    app.add_api_route(route.path, answer, methods=["POST"])
