"""Where a step's time goes, and what would shorten it."""
