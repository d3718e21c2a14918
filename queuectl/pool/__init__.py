"""The pool that `queuectl worker start` runs: its backlog, its claims and each job's turn."""
