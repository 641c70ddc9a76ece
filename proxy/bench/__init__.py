"""Measuring: workloads, and the comparison of direct and proxied."""
