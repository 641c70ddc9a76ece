"""The users' benchmark, ``pilotlight bench``: workloads, how their calls are made, and what is noted of each call.

The developers' own benchmarks are the modules beside this folder that ``scripts/bench`` names.
"""
