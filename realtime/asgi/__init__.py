"""An application as one ASGI callable: one process, under any ASGI server, without primary and workers."""
