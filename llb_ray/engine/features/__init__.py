"""One encoder pass per image, cached or on the fly."""
