"""A service that cannot judge an image now, and may later."""

from fastapi import HTTPException

_BUSY = 503


class Busy(HTTPException):
    """Raised where too many images wait already, or no judge answers; the client is asked to come back."""

    def __init__(self, why: str = "too many images wait already") -> None:
        super().__init__(_BUSY, f"{why}; send it again later", {"Retry-After": "1"})
