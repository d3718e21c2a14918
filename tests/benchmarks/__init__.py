"""What queuectl costs over the bare limit of the machine: `python -m tests.benchmarks`."""
