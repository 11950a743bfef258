"""Anomaly detectors behind one protocol; each learns from unlabelled inputs and scores rise with abnormality."""
