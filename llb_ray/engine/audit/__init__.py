"""Does a finished run follow from its own raw scores: checks, provenance, scores computed again, signatures."""
