"""From a listening socket to a connection whose first bytes are known."""
