"""One command: what it is run with, its start, its end, what it leaves behind."""
