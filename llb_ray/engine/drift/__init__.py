"""Comparison of new images with those that a run's threshold is for."""
