"""Wire protocols: what clients say, and what is said to them."""
