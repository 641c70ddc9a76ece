"""What to send to Ollama instead of what the client sent, and how to map the reply: pure functions."""
