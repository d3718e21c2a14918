"""Services of the operating system: files, renames, the event loop, file events, systemd."""
