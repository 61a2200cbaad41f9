"""The primary's event loop, and its log lines."""
