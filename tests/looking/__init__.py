"""Tests of what shows a spool: top, stats, report, metrics; and of systemd and the tab key."""
