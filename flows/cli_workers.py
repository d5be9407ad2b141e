"""Commands for workers and for what they left undone."""
