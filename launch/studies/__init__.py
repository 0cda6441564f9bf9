"""Grids of runs that test claims."""
