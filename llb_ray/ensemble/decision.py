"""What can be decided about an image."""

KEPT, REJECTED = "kept", "rejected"
