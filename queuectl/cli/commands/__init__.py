"""The commands: one module a group, loaded only when it is called for."""
