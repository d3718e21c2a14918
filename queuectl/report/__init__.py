"""The page that `queuectl report` writes."""
