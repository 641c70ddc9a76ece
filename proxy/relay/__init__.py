"""The straight line of one request, from the client's socket to Ollama and back."""
