"""`all4one doctor`: check this machine, its packages, its cluster and its disks."""
