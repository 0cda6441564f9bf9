"""Profiling: measure where a step's time goes, and what would make it faster."""
