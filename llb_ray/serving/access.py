"""Access: for anybody with the token, or where there is none, for programs and pages of this machine.

Only the token's digest is kept, so that no state of a cluster holds the token.
"""

import hashlib
import ipaddress
import re
import secrets
import socket
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llb_ray.errors import ConfigError, ResourceError
from llb_ray.names import shown

TOKEN = "LLB_SERVE_TOKEN"  # an environment variable: a command line is readable by all users of a machine
_LEAST_TOKEN = 16  # characters
_SENT = re.compile("[!-~]([ -~]*[!-~])?")
_GOOD = "`openssl rand -hex 32` prints a good one"
_UNAUTHORIZED, _FORBIDDEN = 401, 403
LOCAL = ["localhost", "127.0.0.1", "[::1]"]


def digest_of(token: str | None) -> str | None:
    """The digest of the token, None where there is none; raises ConfigError for one that is guessed or never sent."""
    if token is None:
        return None
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"{TOKEN}: shorter than {_LEAST_TOKEN} characters; {_GOOD}")
    if not _SENT.fullmatch(token):
        raise ConfigError(f"{TOKEN}: has characters that a header cannot carry, or a space at an end; {_GOOD}")
    return hashlib.sha256(token.encode()).hexdigest()


def refuse_open(host: str, token: str | None) -> None:
    """Raise ConfigError for a host that other machines reach, unless a token is asked for."""
    if token is None and not _is_loopback(host):
        raise ConfigError(
            f"--host {shown(host)}: other machines can reach it, so set {TOKEN} to a secret that clients have to send; "
            "or leave --host out to serve this machine only"
        )


def protect(app: FastAPI, token_digest: str | None) -> Callable[..., None]:
    """A dependency for routes that only those who may ask are served by.

    Without a token the app answers under this machine's own names alone, and to no page of another site: neither to
    one whose name was made to resolve to this machine, nor to one that only sends.
    """
    if token_digest is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
        return refuse_other_pages
    bearer, expected = HTTPBearer(auto_error=False), token_digest

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        found = "" if given is None else hashlib.sha256(given.credentials.encode()).hexdigest()
        if not secrets.compare_digest(found, expected):
            why = "a token is needed; send it as `Authorization: Bearer ...`"
            raise HTTPException(_UNAUTHORIZED, why, {"WWW-Authenticate": "Bearer"})

    return check


def refuse_other_pages(request: Request) -> None:
    """Raise HTTPException where a page asks that is not of this server: browsers say whose page it is, programs not."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(_FORBIDDEN, "this page is of another site")


def refuse_taken(host: str, port: int) -> None:
    """Raise ResourceError where a server cannot listen, since another one does."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
