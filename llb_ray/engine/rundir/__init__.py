"""A run's folder: names, events, timings, and which artifacts it consists of."""
