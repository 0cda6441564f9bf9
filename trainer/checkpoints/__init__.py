"""Checkpoints: their format on disk, the store that keeps them, the background writer."""
