"""Feature networks and weight files."""
