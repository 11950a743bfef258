"""The run: stages, workers and executors, with Ray nowhere in sight."""
