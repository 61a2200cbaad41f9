"""
What a connection and a delivery cost here, beside the same work done by `websockets`' own server.

`make bench` runs it. A cost is processor time of the server's processes per unit of work, not time on the clock: other
things that the machine does meanwhile change it little. Ours and the peer's runs alternate. Each run keeps a ledger of
messages; one that is lost, doubled or out of order makes the run a failure, whatever its speed.
"""
