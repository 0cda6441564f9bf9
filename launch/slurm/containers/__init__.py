"""Jobs inside of containers: how the processes start, what they see, and how they reach SLURM."""
