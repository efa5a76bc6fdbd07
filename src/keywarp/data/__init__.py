"""Video in and out, and data sets."""
