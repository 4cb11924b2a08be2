"""From prepared shards to batches."""
