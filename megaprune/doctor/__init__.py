"""What a job will find on this machine."""
