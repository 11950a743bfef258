"""Metrics of how scores and maps separate the anomalous from the normal: image metrics and pixel metrics."""
