"""The shared memory of the workers: one contract (base.py) and what keeps it (memory, local, Redis)."""
