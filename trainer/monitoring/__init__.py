"""What a run writes down and shows: metrics, evaluation during training, trackers."""
