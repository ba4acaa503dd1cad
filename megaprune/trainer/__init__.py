"""The training loop and all that it holds together: batches in, weights out, checkpoints kept."""
