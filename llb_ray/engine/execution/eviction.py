"""The notice that this process's machine is about to be taken away; an executor that hears of it posts it here."""

import time


class EvictionNotice:
    """The time since which this machine is known to be about to be taken away, if it is."""

    def __init__(self) -> None:
        self.since_s: float | None = None  # by the monotonic clock; None: it is not

    def update(self, is_evicted: bool) -> None:
        """Note whether it is about to be taken away now; `since_s` is when this was first noted."""
        if not is_evicted:
            self.since_s = None
        elif self.since_s is None:
            self.since_s = time.monotonic()


NOTICE = EvictionNotice()
