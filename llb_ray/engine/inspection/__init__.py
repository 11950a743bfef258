"""Finished and running runs, read from their folders."""
