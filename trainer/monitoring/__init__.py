"""Metrics of a run, evaluation during training, and experiment trackers."""
