"""Coverage-guided fuzzing of everything in `sticky` that reads bytes of strangers: `make fuzz SECONDS=600`."""
