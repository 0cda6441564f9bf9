"""`all4one profile`: measure where a step's time goes, on this machine and over several nodes."""
