"""Ways to start a job: torchrun on this host, NeMo-Run and Slurm elsewhere."""
