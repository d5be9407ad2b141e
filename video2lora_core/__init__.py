"""The method: video segments in, adapters out, answers from adapters alone. torch only, no framework."""
