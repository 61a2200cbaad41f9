"""One client on this worker, below any wire protocol."""
