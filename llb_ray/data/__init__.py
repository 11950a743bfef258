"""Images and their identity: manifests, adapters, decoding, and synthetic sets."""
