"""Jobs of SLURM, submitted through submitit."""
