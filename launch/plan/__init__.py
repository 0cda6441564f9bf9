"""`all4one plan`: the goodput that a run on a cluster can expect, from a simulation of its failures."""
