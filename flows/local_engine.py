"""The engine without a server: steps are called, shards run one after the other in this process."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from configs.schema import InternalizeConfig
from flows.internalize_shard import internalize_shard
from tasks.summary import ShardSummary
from video2lora_core.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class LocalEngine:
    """Calls steps and shards."""

    name = "local"

    def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the step."""
        return function(*args, **kwargs)

    def run_shards(
        self, config: InternalizeConfig, *, run_id: str, num_shards: int, attempt_id: str
    ) -> ShardSummary:
        """Call the flow of one shard after the other."""
        if config.shards == "deployment":
            raise UsageError(
                "internalize: `shards: deployment` needs Prefect (found the local engine); set "
                "PREFECT_API_URL and --engine prefect, or `shards: here`"
            )
        done = ShardSummary()
        for shard in range(num_shards):
            done += internalize_shard(
                config, self, run_id=run_id, shard=shard, attempt_id=attempt_id
            )
        return done
