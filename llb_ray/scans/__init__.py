"""Scans of whole benchmarks: every category, noise level, filter and seed a run, all of them one table."""
