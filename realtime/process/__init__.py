"""One worker process: which part serves an adopted connection."""
