"""The messages of Ollama's native API and of its OpenAI and Anthropic dialects."""
