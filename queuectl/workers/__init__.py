"""Workers and other owners: which are alive, what is asked of them, and what they log."""
