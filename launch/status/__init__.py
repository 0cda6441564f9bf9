"""Where runs stand: the ledger, their state, and nodes that failures point at."""
