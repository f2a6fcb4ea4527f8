"""What one sees of a run: the live view while it lasts, the report when it has ended."""
