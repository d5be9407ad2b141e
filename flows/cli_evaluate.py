"""Commands that measure answers."""
