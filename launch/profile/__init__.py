"""`all4one profile`: where a step's time goes, on this machine and over nodes."""
