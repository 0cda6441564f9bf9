"""Studies: grids of runs that test claims."""
