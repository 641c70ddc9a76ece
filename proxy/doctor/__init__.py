"""``pilotlight doctor``: what is seen of a running Ollama (``gather``), and what it means (``checks``)."""
