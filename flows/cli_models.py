"""Commands on models and checkpoints."""
