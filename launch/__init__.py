"""Where training runs: this machine's processes, or a cluster's."""
