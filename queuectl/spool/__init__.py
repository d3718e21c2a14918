"""The directory that is the queue: where everything is in it, and the moves that jobs make."""
