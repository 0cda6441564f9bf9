"""The schema of every setting, recipes, overrides, and what a resume may change."""
