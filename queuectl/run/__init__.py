"""Run one command: its environment, its start, its end, and what it leaves behind."""
