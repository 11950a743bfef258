"""Workers and how they are run: protocols, the serial executor, heartbeats, checkpoints."""
