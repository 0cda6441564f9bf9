"""The settings schema, recipes, overrides, and the rules for which settings may change on resume."""
