"""Build indexed shards from raw images."""
