"""SLURM jobs, submitted through submitit."""
