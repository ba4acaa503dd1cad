"""The checks of `megaprune doctor`: what a job will meet on this machine, and how to fix it."""
