"""Command line and local infrastructure. May use anything; nothing uses it."""
