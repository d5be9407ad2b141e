"""One shard = one process = one device: its videos become adapters, then compositions."""

from configs.schema import InternalizeConfig
from flows.engine import Engine
from tasks.compose_videos import compose_videos
from tasks.internalize_units import internalize_units
from tasks.run_state import close_shard, shard_is_closed
from tasks.summary import ShardSummary


def internalize_shard(
    config: InternalizeConfig, engine: Engine, *, run_id: str, shard: int, attempt_id: str
) -> ShardSummary:
    """Do what the shard's plan lists and the catalog does not hold yet.

    An attempt that comes after the shard was closed does nothing: no video is opened, no model
    loaded.
    """
    if engine.step(shard_is_closed, config.lake, run_id=run_id, shard=shard):
        return ShardSummary()
    internalized = engine.step(
        internalize_units, config, run_id=run_id, shard=shard, attempt_id=attempt_id
    )
    composed = engine.step(
        compose_videos,
        config,
        run_id=run_id,
        shard=shard,
        unit=internalized.num_planned_units,
        attempt_id=attempt_id,
    )
    done = internalized + composed
    engine.step(close_shard, config, run_id=run_id, shard=shard, attempt_id=attempt_id, done=done)
    return done
