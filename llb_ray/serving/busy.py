"""More images wait than a service takes on."""

from fastapi import HTTPException

_BUSY = 503


class Busy(HTTPException):
    """Raised where an image is not even queued; the client is asked to come back."""

    def __init__(self) -> None:
        super().__init__(_BUSY, "too many images wait already; send it again later", {"Retry-After": "1"})
