"""Inspect a dataset: a gallery of views, statistics and verification."""
