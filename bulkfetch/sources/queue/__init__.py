"""A queue as a source."""
