"""Searches for good settings: trials that a sampler of Optuna proposes, and runs that train them."""
