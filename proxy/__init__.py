"""Pilotlight: a reverse proxy beside Ollama that keeps models resident and gets the first token out sooner."""

__version__ = "0.1.0"
