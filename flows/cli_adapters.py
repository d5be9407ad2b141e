"""Commands on adapters: composing them and carrying them elsewhere."""
