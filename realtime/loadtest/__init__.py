"""
A load client for a deployment of one's own: `realtime bench` runs it, in a process that serves nothing.

It is a client like any other: it never reads a clock, a counter or a log of the server that it loads.
"""
