"""Keeping models loaded: what to do (pure), who does it, and the loads that requests share."""
