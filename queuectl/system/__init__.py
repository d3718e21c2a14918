"""What is needed of the system: files and their names, waiting, events, a name in tmp/, systemd."""
