"""Shapes and framing of the messages that cross the wire: pure functions that know nothing of the proxy."""
