"""Writers of a run's metrics in addition to metrics.jsonl. Each writer has its own module."""
