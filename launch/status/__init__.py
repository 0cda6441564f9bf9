"""Run status: the ledger, the state of runs, and suspect nodes."""
