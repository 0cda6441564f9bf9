"""`all4one doctor`: checks of this machine, its packages, its cluster and its disks."""
