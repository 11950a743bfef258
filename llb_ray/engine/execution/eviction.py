"""The notice that this process's machine is about to be taken away; an executor that hears of it posts it here."""

import time


class EvictionNotice:
    """Stands from the moment it is posted until it is withdrawn."""

    def __init__(self) -> None:
        self.since_s: float | None = None  # by the monotonic clock; None while it does not stand

    def post(self, stands: bool) -> None:
        """Say whether it stands now; posted again, it stands since the first time."""
        if not stands:
            self.since_s = None
        elif self.since_s is None:
            self.since_s = time.monotonic()


NOTICE = EvictionNotice()
