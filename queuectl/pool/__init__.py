"""The pool that `queuectl worker start` runs: what waits, what is claimed, each job's turn."""
