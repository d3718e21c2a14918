"""Tests of what shows a spool (top, stats, report, metrics), of systemd, and of the tab key."""
