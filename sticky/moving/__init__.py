"""Moving live connections from one worker to another."""
