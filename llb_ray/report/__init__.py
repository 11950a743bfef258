"""What people look at: the terminal, heatmaps, and a run's report."""
