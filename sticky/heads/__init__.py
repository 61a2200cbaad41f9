"""What the first bytes of a connection say. Pure."""
