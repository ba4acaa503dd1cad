"""The parts of benchmarks/gpu_smoke.py, each run in a process of its own."""
