"""The errors llb_ray raises on purpose: one root, few leaves, each message one sentence.

A message says what is wrong, where, and what to do next; the command line prints it and exits 1.
Every class takes exactly its message, so that ``args == (message,)`` and Ray can carry it between processes.
"""


class LlbError(Exception):
    """Root of every mistake that the user can fix."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ConfigError(LlbError):
    """A setting is unknown, out of range, or cannot take effect."""


class DataError(LlbError):
    """The images, manifest or labels cannot be used as they are."""


class WeightsError(LlbError):
    """Backbone weights are missing or do not fit the architecture."""


class ResourceError(LlbError):
    """The machine or cluster does not have what the configuration asks for."""


class MemberError(LlbError):
    """A sub-model or the final detector failed for a reason of its own."""


class ArtifactError(LlbError):
    """A stored artifact is missing, damaged or was made by another format version."""


class DamageError(ArtifactError):
    """A stored artifact is not what its completion record says: it can be made again."""


class AuditError(LlbError):
    """A finished run does not follow from its own raw scores."""
