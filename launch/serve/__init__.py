"""`all4one serve`: show the runs of a folder live in a browser. Loads no torch."""
