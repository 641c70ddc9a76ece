"""The compatibility routes: OpenAI and Anthropic."""
