"""A call to a model as a provider with OpenAI's API is asked, and its reply as Ollama would have given it. Pure."""
