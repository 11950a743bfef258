"""The images of a request: its files where it is a form, else its whole body, never more bytes than are allowed."""

from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_IMAGES = 64  # of one request
_MIB, _DIGITS = 2**20, 20
_NO_FORM, _TOO_LARGE, _NO_IMAGE = 400, 413, 422
SCHEMA = {  # for OpenAPI, which cannot know it from the code
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}


@dataclass(frozen=True)
class Upload:
    """An image as it was sent; `name` is the sender's own word for it, and may be any text."""

    name: str
    content: bytes


async def uploads(request: Request) -> list[Upload]:
    """The images of a request, in their order; raises HTTPException where there is none, or too many."""
    content = await request.body()
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == b"multipart/form-data":
        found = await _files(request)
        _refuse_cut(content, options[b"boundary"])
    else:
        found = [Upload("", content)] if content else []
    if not found:
        raise HTTPException(_NO_IMAGE, "no image in the request; send its bytes as the body, or a form with files")
    return found


def _refuse_cut(content: bytes, boundary: bytes) -> None:
    """Raise HTTPException for a form without its end, whose last file would be missing without a word."""
    if b"--" + boundary + b"--" not in content:
        raise HTTPException(_NO_FORM, "the form ends before its last boundary; send all of it")


async def _files(request: Request) -> list[Upload]:
    try:
        async with request.form(max_files=MOST_IMAGES) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [Upload(_text(file.filename), await file.read()) for file in files]
    except AnyHTTPException as error:  # of the parser, over several lines
        raise HTTPException(_NO_FORM, f"not a form: {str(error.detail).splitlines()[0]}") from error


def _text(name: str | None) -> str:
    """The name without what no encoding of an answer has: the sender may say that it is in any."""
    return (name or "").encode("utf-8", "replace").decode()


class BodyLimit:
    """ASGI middleware: a body of more bytes is answered with 413, and is not read further."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        declared = Headers(scope=scope).get("content-length", "")

        async def counted() -> Message:
            nonlocal num_bytes
            self._refuse(int(declared[:_DIGITS]) if declared.isdecimal() else 0)
            message = await receive()
            num_bytes += len(message.get("body", b""))
            self._refuse(num_bytes)
            return message

        await self._app(scope, counted, send)

    def _refuse(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            limit = f"the body is larger than {self._max_bytes / _MIB:g} MiB; send fewer or smaller images"
            raise HTTPException(_TOO_LARGE, limit)
