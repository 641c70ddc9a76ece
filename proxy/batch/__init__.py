"""Many prompts, chats or texts to embed, sent at a low priority and answered line by line.

``run_batch`` gives results to a program, ``run_file`` is what ``pilotlight batch`` does; ``docs/batch.md`` shows both.
"""

from proxy.batch.file import Tally, run_file
from proxy.batch.job import Job
from proxy.batch.journal import Journal, OutputFailed, OutputUnusable
from proxy.batch.record import Result
from proxy.batch.run import BatchStopped, ChangedInput, run_batch
from proxy.batch.source import InputUnusable, Source

__all__ = [
    "BatchStopped",
    "ChangedInput",
    "InputUnusable",
    "Job",
    "Journal",
    "OutputFailed",
    "OutputUnusable",
    "Result",
    "Source",
    "Tally",
    "run_batch",
    "run_file",
]
