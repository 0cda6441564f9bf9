"""A set of shards at rest: tars, index, remote files and their cache."""
