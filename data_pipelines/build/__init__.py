"""Raw images become shards with an index."""
