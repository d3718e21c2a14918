"""The directory that is the queue: where its files are, and how jobs move in it."""
