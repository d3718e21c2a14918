"""What the records of a spool say taken together."""
