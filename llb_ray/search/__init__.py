"""Searching the settings without labels: the space, the planted defects, the objectives, the table of trials."""
