"""What a flow is given to run its steps with: called as they are, or wrapped by Prefect.

Both engines run the same step functions in the same order, so a flow is written once. Importing the
local one imports no Prefect; `flows.prefect_engine` is imported only where it is chosen.
"""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from configs.schema import InternalizeConfig
from tasks.summary import ShardSummary

P = ParamSpec("P")
T = TypeVar("T")


class Engine(Protocol):
    """Runs steps, and the flows of shards."""

    name: str

    def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one step; its inputs and result are ids, settings and counts."""
        ...

    def run_shards(
        self, config: InternalizeConfig, *, run_id: str, num_shards: int, attempt_id: str
    ) -> ShardSummary:
        """Run every shard of a run to its end, here or elsewhere."""
        ...
