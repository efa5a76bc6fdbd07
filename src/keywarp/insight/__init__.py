"""Pictures of what happens inside a method while it works on a video."""
