"""Where training runs: this machine's processes, or a cluster's."""

from launch.renamed_modules import accept_old_names

accept_old_names()
