"""Which user a client is: tokens, the keys that verify them, and revocation."""
