"""A run's folder, lock, signals, hang watch and progress."""
