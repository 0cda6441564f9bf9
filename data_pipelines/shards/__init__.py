"""Datasets in shards: tars, index, remote files and their cache."""
