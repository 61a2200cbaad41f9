"""From an adopted socket to messages: WebSocket of our own, and ASGI applications through uvicorn."""
