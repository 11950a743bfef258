"""Output for the user: the terminal, heatmaps, and a run's report."""
