"""Access: for anybody with the token, or where there is none, for programs and pages of this machine.

Only the token's digest is kept, so that no state of a cluster holds the token.
"""

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, HTTPException, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware

from llb_ray.errors import ConfigError, ResourceError
from llb_ray.names import shown

TOKEN = "LLB_SERVE_TOKEN"  # an environment variable: a command line is readable by all users of a machine
_LEAST_TOKEN = 16  # characters
_UNAUTHORIZED = 401
LOCAL = ["localhost", "127.0.0.1", "[::1]"]


def digest_of(token: str | None) -> str | None:
    """The digest of the token, None where there is none; raises ConfigError for one that could be guessed."""
    if token is None:
        return None
    if len(token) < _LEAST_TOKEN:
        raise ConfigError(f"{TOKEN}: shorter than {_LEAST_TOKEN} characters; `openssl rand -hex 32` prints a good one")
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

    Without a token the app answers under this machine's own names alone: a page of another site whose name was made to
    resolve to this machine gets nothing.
    """
    if token_digest is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
        return lambda: None
    bearer, expected = HTTPBearer(auto_error=False), token_digest

    def check(given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        found = "" if given is None else hashlib.sha256(given.credentials.encode()).hexdigest()
        if not secrets.compare_digest(found, expected):
            why = "a token is needed; send it as `Authorization: Bearer ...`"
            raise HTTPException(_UNAUTHORIZED, why, {"WWW-Authenticate": "Bearer"})

    return check


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
