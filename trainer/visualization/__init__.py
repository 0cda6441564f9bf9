"""What a run's checkpoints look like: pictures and places as plain data, for pages to show."""
