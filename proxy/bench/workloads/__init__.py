"""The users' benchmark, ``pilotlight bench``: workloads, how their calls are made, and what is noted of each call."""
