"""One shard's work, from videos to committed units, in overlapping stages.

    readers (threads) -> queue  -> device (this thread) -> queue    -> storers, committer (threads)
    meet, decode         frames    batches                 adapters    files, units in plan order

docs/pipeline.md draws it with its bounds. Readers, device and lake are given: the flow does not
know what they are.
"""

from collections.abc import Sequence

from tasks.crew import GRACE_S, Crew
from tasks.device_work import DeviceWork, MakeAdapters
from tasks.kept_tokens import KeptTokens
from tasks.known import Known
from tasks.open_units import OpenUnits
from tasks.read_ahead import ReadAhead
from tasks.scratch import Scratch
from tasks.shard_plan import ShardPlan
from tasks.stopwatch import Stopwatch
from tasks.summary import ShardSummary
from tasks.termination import terminable
from tasks.video_reader import VideoReader
from tasks.write_behind import UnitLake, WriteBehind


def do_shard(
    plan: ShardPlan,
    *,
    known: Known,
    readers: Sequence[VideoReader],
    make_adapters: MakeAdapters,
    lake: UnitLake,
    watch: Stopwatch,
    scratch_bytes: int,
    tokens: KeptTokens | None = None,
    grace_s: float = GRACE_S,
) -> ShardSummary:
    """Do what of the shard is not done; return when every unit is committed.

    Whatever a stage raises is raised here, after the other stages have ended: complete units are
    committed, unless writing is what failed, and at most `grace_s` later nothing is waited for.

    Args:
        plan: what to do.
        known: what the catalog knows; its lake is asked by no other thread meanwhile.
        readers: one thread each.
        make_adapters: the device's work on one batch, run in the calling thread.
        lake: written by the committing thread; not the one that `known` asks.
        watch: takes the seconds of every stage.
        scratch_bytes: room for copies of remote videos.
        tokens: where visual tokens are kept; None neither reads nor writes any.
        grace_s: how long to wait for threads that end.
    """
    with terminable(), Crew(grace_s=grace_s) as crew:
        units = OpenUnits(plan)
        scratch = Scratch(crew, limit_bytes=scratch_bytes)
        capacity = plan.batch_segments  # the next batch gathers while the device has one
        reading = ReadAhead(
            crew,
            plan,
            known=known,
            units=units,
            scratch=scratch,
            watch=watch,
            capacity=capacity,
            tokens=tokens,
        )
        writing = WriteBehind(
            crew, plan, lake=lake, units=units, watch=watch, capacity=capacity, tokens=tokens
        )
        device = DeviceWork(
            reading, writing, make_adapters, batch_segments=plan.batch_segments, watch=watch
        )
        try:
            writing.start()
            reading.start(readers)
            device.run()
            writing.finish()
        finally:
            crew.end()
            scratch.close()
    return _summary(plan, reading, device, writing, num_units=units.num_units, watch=watch)


def _summary(
    plan: ShardPlan,
    reading: ReadAhead,
    device: DeviceWork,
    writing: WriteBehind,
    *,
    num_units: int,
    watch: Stopwatch,
) -> ShardSummary:
    return ShardSummary(
        num_videos=len(plan.sources),
        num_files_read=reading.num_files_read,
        num_files_decoded=reading.num_files_decoded,
        num_segments=device.num_segments,
        num_segments_recalled=reading.num_segments_recalled,
        num_rejects=writing.num_rejects,
        num_units=writing.num_units,
        num_planned_units=num_units,
        seconds=watch.seconds,
        wall_s=watch.wall_s,
    )
