"""A job's record: its fields, how it is read and written, and how a run changes it."""
