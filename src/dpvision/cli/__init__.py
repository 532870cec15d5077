"""The command line: thin commands over dpvision.api."""

from time import perf_counter

STARTED = perf_counter()
"""The time when the process began to be a command: imports that follow take seconds."""
