"""Whatever breaks, nothing is lost: the spool under injected faults."""
