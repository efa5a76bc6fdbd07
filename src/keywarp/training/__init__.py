"""From annotated videos to weights."""
