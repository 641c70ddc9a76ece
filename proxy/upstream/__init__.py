"""The client of Ollama."""
