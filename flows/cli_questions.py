"""Commands that answer many questions."""
