"""The primary as a process: its loop, its signals, and what operators ask of it."""
