"""Statistics over the records of a spool."""
