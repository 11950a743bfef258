"""A run's final detector on new images."""
