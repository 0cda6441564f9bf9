"""The process group, its collectives, and batch norm and gradients across ranks."""
