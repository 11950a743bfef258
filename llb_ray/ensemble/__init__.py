"""The method itself in numpy and Arrow: who trains on what, who scored what, what is kept."""
