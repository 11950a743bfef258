"""Possible decisions about an image."""

KEPT, REJECTED = "kept", "rejected"
