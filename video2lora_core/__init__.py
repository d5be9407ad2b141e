"""The method: segments in, adapters out, answers from adapters alone. torch, and no framework."""
