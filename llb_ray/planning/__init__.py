"""Before a run: is everything there (doctor), what to set (suggest), and what it will take (calibration, forecast)."""
