"""What can be set, and the file that it is kept in."""
