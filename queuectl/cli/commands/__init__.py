"""The commands, one module for each group, loaded only when it is needed."""
