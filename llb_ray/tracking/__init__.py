"""Finished runs, scans and searches in experiment trackers: a thin adapter for each tracker's own client."""
