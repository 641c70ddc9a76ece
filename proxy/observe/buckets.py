"""The buckets of every histogram, in one place; seconds unless the name says otherwise.

A share of calls within a goal can be read exactly only where a bucket ends at the goal, so the goals are boundaries: a
warm first token within 0.5 s, a cold one within 2 s. The lists of OpenTelemetry and vLLM have no 2 and begin too high
for small models on large GPUs, whose tokens are 5 ms apart.
"""

from __future__ import annotations

TTFT_S = (
    0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80, 160, 320,
)  # fmt: skip
CHUNK_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5)
CALL_S = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 45, 60, 120, 240, 480, 960)
LOAD_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 40, 80, 160, 320)
WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
