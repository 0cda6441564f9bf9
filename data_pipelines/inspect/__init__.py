"""Looks at a set of shards: a gallery of views, statistics, verification."""
