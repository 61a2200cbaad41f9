"""
What a delivery, a connection, a request and an idle client cost here, beside a floor and the servers that one would
take instead.

`make bench` runs it. A cost is processor time of the server's processes per unit of work, not time on the clock: other
things that the machine does meanwhile change it little. In reading order: `scenarios` says what is measured,
`contestants` who is, `servers` and `peers/` how each is started, `load` and `native/` what loads them, `cpu` and
`machine` what is read, `rounds` in which order, `targets` what is promised, `report` and `page` how it is told. Nothing
here is imported by the server, and nothing is needed by its tests but a C compiler.
"""
