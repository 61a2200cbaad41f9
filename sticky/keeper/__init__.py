"""The keeper: the process that holds what must outlive a primary, and starts the next primary."""
