"""Fitting and scoring workers."""
