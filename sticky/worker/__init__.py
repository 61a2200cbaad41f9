"""The worker's end: what runs in each worker process."""
