"""A simulated Ollama, for trying things without a model or a GPU."""
