"""Health, metrics, and the lag of consumer groups."""
