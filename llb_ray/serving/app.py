"""The service's routes: images in, verdicts out; it knows runs as functions, and not where they are computed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files as resources

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException as AnyHTTPException

from llb_ray import __version__
from llb_ray.names import shown
from llb_ray.serving.access import protect
from llb_ray.serving.answer import Judged, Refused
from llb_ray.serving.body import SCHEMA, BodyLimit, Upload, uploads
from llb_ray.serving.meters import Meters
from llb_ray.serving.schema import Problem, Runs, Verdicts, verdicts

Ask = Callable[[bytes, bool], Awaitable[Judged | Refused]]  # of an image's bytes, and whether to draw it
_UNKNOWN, _BAD_REQUEST, _BAD_IMAGE, _ONE_IMAGE = 404, 422, 422, 422
_REFUSALS = {status: {"model": Problem} for status in (400, 401, 403, 404, 413, 422, 503)}
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_MOST_SHOWN = 200  # characters of a name that a refusal repeats
_PAGE = {"": "text/html", "serve.js": "text/javascript", "serve.css": "text/css"}


def build_app(asks: Mapping[str, Ask], max_bytes: int, token_digest: str | None) -> FastAPI:
    """The web application that serves these runs, by name."""
    app = FastAPIOffline(
        title="llb-ray",
        version=__version__,
        summary="Verdicts on images by the final detectors of runs",
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    app.add_exception_handler(RequestValidationError, _misread)
    service = _Service(asks)
    guarded = APIRouter(dependencies=[Depends(protect(app, token_digest))])
    guarded.get("/runs")(service.runs)
    for path, answer in (("predict", service.predict), ("overlay", service.overlay)):
        options = {"responses": _REFUSALS, "openapi_extra": {"requestBody": SCHEMA}}
        guarded.post(f"/runs/{{run}}/{path}", **options)(answer)  # type: ignore[arg-type]
    guarded.get("/metrics", response_class=PlainTextResponse)(service.metrics)
    app.include_router(guarded)
    app.get("/healthz")(_healthy)
    for name in _PAGE:
        app.get(f"/{name}", include_in_schema=False)(_page_file(name))
    return app


class _Service:
    """The routes' functions."""

    def __init__(self, asks: Mapping[str, Ask]) -> None:
        self._asks = asks
        self._meters = Meters()

    def runs(self) -> Runs:
        """The runs that are served, by name."""
        return Runs(runs=list(self._asks))

    async def predict(
        self, run: str, request: Request, overlay: bool = Query(False, description="draw heatmaps, too")
    ) -> Verdicts:
        """Judge images: the files of a form, or one image as the body."""
        images, judged = await self._measured(run, request, overlay)
        return verdicts(run, images, judged)

    async def overlay(self, run: str, request: Request) -> Response:
        """One image with its heatmap, as PNG."""
        images, judged = await self._measured(run, request, True)
        if len(images) != 1:
            raise HTTPException(_ONE_IMAGE, f"{len(images)} images in the request; send one to be drawn")
        return Response(judged[0].overlay, media_type="image/png", headers={"X-Decision": judged[0].decision})

    def metrics(self) -> bytes:
        """Counters and latencies for Prometheus."""
        return self._meters.text()

    async def _measured(self, run: str, request: Request, draws: bool) -> tuple[list[Upload], list[Judged]]:
        if run not in self._asks:
            raise HTTPException(_UNKNOWN, f"no run '{shown(run[:_MOST_SHOWN])}' is served; GET /runs lists them")
        started_s, status = time.perf_counter(), 500
        try:
            images = await uploads(request)
            judged = await self._judged(run, images, draws)
            status = 200
        except AnyHTTPException as error:
            status = error.status_code
            raise
        finally:
            self._meters.requests.labels(run, str(status)).inc()
            self._meters.seconds.labels(run).observe(time.perf_counter() - started_s)
        for one in judged:
            self._meters.images.labels(run, one.decision).inc()
        return images, judged

    async def _judged(self, run: str, images: Sequence[Upload], draws: bool) -> list[Judged]:
        answers = await asyncio.gather(*(self._asks[run](image.content, draws) for image in images))
        judged: list[Judged] = []
        for number, (image, answer) in enumerate(zip(images, answers, strict=True), 1):
            if isinstance(answer, Refused):
                name = shown(image.name[:_MOST_SHOWN]) or f"image {number}"
                raise HTTPException(_BAD_IMAGE, f"{name}: {answer.reason}; leave it out")
            judged.append(answer)
        return judged


async def _misread(request: Request, error: Exception) -> Response:
    """The first thing that is wrong with a request's parameters, as one sentence like every other refusal."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{shown(str(first['loc'][-1]))}: {shown(first['msg'])}"}, _BAD_REQUEST)


def _healthy() -> str:
    """A sign that the service answers."""
    return "ok"


def _page_file(name: str) -> Callable[[], Response]:
    content = resources("llb_ray.serving").joinpath("page", name or "serve.html").read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}

    def answer() -> Response:
        return Response(content, media_type=_PAGE[name], headers=headers)

    return answer
