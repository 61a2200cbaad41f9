"""Socket.IO protocol 5 over Engine.IO protocol 4, server side."""
