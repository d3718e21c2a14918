"""What becomes of what the dead held."""
