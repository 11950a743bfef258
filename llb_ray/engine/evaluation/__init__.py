"""Metrics of a run against labels and masks, and its threshold."""
