"""Where results live: the lake's adapters, checkpoints, plans and catalog. No torch, no Prefect."""

from storage.lake import Lake, open_lake

__all__ = ["Lake", "open_lake"]
