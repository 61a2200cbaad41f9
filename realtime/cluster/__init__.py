"""What the workers of all machines say to each other."""
