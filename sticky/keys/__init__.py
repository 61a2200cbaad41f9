"""What routes a connection, and which slot that is."""
