"""OpenAI's chat completions and completions as Ollama's chat and generate, and their replies back. Pure."""
