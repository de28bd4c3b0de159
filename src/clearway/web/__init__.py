"""The road that a request takes: one pure ASGI layer, and what it answers by itself."""
