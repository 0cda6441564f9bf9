"""The data pipeline: from images to shards, ordered samples and augmented views."""
