"""One run: fit, checkpoints, resume, run record."""
