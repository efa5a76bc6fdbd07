"""What `benchmark.py` is made of: who takes part, on which pictures, what is timed, and the picture of it."""
