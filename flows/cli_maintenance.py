"""Commands that keep a lake well: checking, compacting, cleaning up, deleting."""
