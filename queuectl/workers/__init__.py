"""Who is alive, what is asked of them, and what they log."""
