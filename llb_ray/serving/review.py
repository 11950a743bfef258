"""A run's report, served from loopback: decisions are saved as they are made, and `repurify` is a button.

The page is the run's own report.html with one script more.  It is served below a secret path, as other users of the
machine share the loopback, and takes changes only from pages of its own.
"""

import contextlib
import secrets
from collections.abc import Iterator
from importlib.resources import files as resources
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from llb_ray.engine.rundir.run_folder import REPORT
from llb_ray.errors import ArtifactError, DataError
from llb_ray.serving.access import LOCAL, refuse_other_pages
from llb_ray.serving.body import BodyLimit
from llb_ray.serving.decisions import Decision, Decisions
from llb_ray.serving.photographs import ADDRESS, Photographs, with_photographs
from llb_ray.serving.repurify_job import RepurifyJob

_FORBIDDEN, _MISSING, _BAD, _NO_ROOM = 403, 404, 422, 507
_MOST_BYTES = 32 * 2**20  # of a request
_CHANGES = TypeAdapter(dict[str, Decision | None])
_POLICY = "script-src '"  # in the report's own, once


def secret_path() -> str:
    """A path that cannot be guessed."""
    return secrets.token_urlsafe(16)


def review_app(report: str, decisions: Decisions, job: RepurifyJob, photographs: Photographs, secret: str) -> Starlette:
    """The web application that serves the text of a report, and its photographs, below the path `secret`."""
    review = _Review(live(report), decisions, job)
    routes = [
        Route("/", review.page),
        Route("/live.js", review.script),
        Route("/state", review.state),
        Route("/after", review.after),
        Route(f"/{ADDRESS}/{{path:path}}", photographs.answer),
        Route("/decisions", review.change, methods=["POST"]),
        Route("/undo", review.undo, methods=["POST"]),
        Route("/repurify", review.repurify, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount(f"/{secret}", routes=routes)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL),
            Middleware(BodyLimit, max_bytes=_MOST_BYTES),
        ],
    )


def live(report: str) -> str:
    """The page of a report, with the script that keeps it in step with the server, and may ask this server alone.

    Raises ArtifactError for what is no report of this version.
    """
    if _POLICY not in report or "</body>" not in report:
        raise ArtifactError("report.html is not of this version of llb-ray; write it again with `llb-ray report`")
    allowed = with_photographs(report).replace(_POLICY, "connect-src 'self'; script-src 'self' '", 1)
    head, end, tail = allowed.rpartition("</body>")
    return f'{head}<script src="live.js"></script>{end}{tail}'


class _Review:
    """The routes' functions; every change is answered with the whole state."""

    def __init__(self, page: str, decisions: Decisions, job: RepurifyJob) -> None:
        self._page, self._decisions, self._job = page, decisions, job

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers={"Referrer-Policy": "same-origin", "Cache-Control": "no-store"})

    async def script(self, request: Request) -> Response:
        content = resources("llb_ray.serving").joinpath("page", "live.js").read_bytes()
        return Response(content, media_type="text/javascript")

    async def state(self, request: Request) -> Response:
        return self._state()

    async def after(self, request: Request) -> Response:
        """The report of the run that repurify made."""
        path = self._job.out / REPORT
        if self._job.as_json()["state"] != "finished" or not path.exists():
            raise HTTPException(_MISSING, "there is no report of a new run yet")
        return HTMLResponse(with_photographs(path.read_text()))

    async def change(self, request: Request) -> Response:
        _refuse_others(request)
        try:
            changes = _CHANGES.validate_json(await request.body())
            with _saving():
                self._decisions.change(changes)
        except ValidationError as error:
            raise HTTPException(_BAD, f"not decisions on images: {error.errors()[0]['msg']}") from error
        except DataError as error:
            raise HTTPException(_BAD, str(error)) from error
        return self._state()

    async def undo(self, request: Request) -> Response:
        _refuse_others(request)
        with _saving():
            self._decisions.undo()
        return self._state()

    async def repurify(self, request: Request) -> Response:
        _refuse_others(request)
        if not self._decisions.num_decided:
            raise HTTPException(_BAD, "there is no decision yet; keep or reject an image first")
        self._job.start()
        return self._state()

    def _state(self) -> Response:
        said: dict[str, Any] = {"version": self._decisions.version, "decisions": self._decisions.as_json()}
        said |= {"can_undo": self._decisions.can_undo, "job": self._job.as_json()}
        return JSONResponse(said)


@contextlib.contextmanager
def _saving() -> Iterator[None]:
    """A disk that is full or gone is the answer, and the page keeps what it could not save."""
    try:
        yield
    except OSError as error:
        raise HTTPException(_NO_ROOM, f"{error.filename}: {error.strerror}; decisions stay in the browser") from error


def _refuse_others(request: Request) -> None:
    """Raise HTTPException unless a page of this server asks."""
    if "origin" not in request.headers:
        raise HTTPException(_FORBIDDEN, "only the review's own page changes decisions")
    refuse_other_pages(request)
