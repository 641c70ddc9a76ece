"""One module per family of routes; each handler takes a ``Call``."""
