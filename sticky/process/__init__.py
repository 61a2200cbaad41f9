"""The primary as a process: its loop, its signals, and the requests of operators."""
