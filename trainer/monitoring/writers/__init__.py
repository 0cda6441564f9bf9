"""Where a run's values go beside metrics.jsonl, one file a writer."""
