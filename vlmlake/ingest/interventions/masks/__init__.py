"""Images with patches under gray, and which patches."""
