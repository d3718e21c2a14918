"""A job's record: its fields, how it is read and written, and what becomes of it after a run."""
