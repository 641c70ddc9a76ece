"""What happened to each request: timeline, metrics, logs, recent requests, statistics."""
