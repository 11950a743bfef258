"""Photographs of a run for its page: those alone that it names, and where the page looks for them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from llb_ray.data.manifest import path_from_text
from llb_ray.names import leaves

ADDRESS = "photographs"
_MISSING = 404
_HEADERS = {"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"}


class Photographs:
    """Photographs below a folder, served below `ADDRESS`."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self._root, self._known = root, {path_from_text(path) for path in paths}

    async def answer(self, request: Request) -> Response:
        """A photograph as it is on the disk; HTTPException for any other file, and for one that is gone."""
        asked = os.fsdecode(unquote_to_bytes(request.scope["raw_path"].partition(f"/{ADDRESS}/".encode())[2]))
        path = self._root / asked
        if asked not in self._known or leaves(asked) or not path.is_file():
            raise HTTPException(_MISSING, "no photograph of this run, or it is gone")
        return FileResponse(path, headers=_HEADERS)


def with_photographs(report: str) -> str:
    """The page of a report, which looks for its photographs on the server that it comes from."""
    return re.sub('"folder":"[^"]*"', f'"folder":"{ADDRESS}/"', report, count=1)
