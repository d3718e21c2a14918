"""What every program needs of the system: files that survive, an event loop, arrivals."""
