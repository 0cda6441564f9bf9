"""Visualization of a run's checkpoints as plain data for pages: feature maps, neighbors and views."""
