"""The benchmarks whose annotation files can be read, by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.benchmark_sets import captioning, plm, question_answering
from tasks.benchmark_sets.rows import BadRow
from tasks.question_set import SetQuestion


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """How one benchmark is read."""

    title: str
    """As its authors write it."""
    read: Callable[[Path], Iterator[tuple[int, SetQuestion | BadRow]]]
    """Streams its questions, each with its line; videos by the benchmark's own names."""
    has_frame_spans: bool = False
    """Spans are given in frames and need the video to become times."""


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "activitynet-captions": Benchmark(
        title="ActivityNet Captions", read=captioning.activitynet_captions
    ),
    "plm-rdcap": Benchmark(title="PLM-RDCap", read=plm.plm_rdcap),
    "plm-rcap": Benchmark(title="PLM-RCap", read=plm.plm_rcap, has_frame_spans=True),
    "plm-sgqa": Benchmark(title="PLM-SGQA", read=plm.plm_sgqa),
    "vdc": Benchmark(title="VDC", read=captioning.vdc),
    "carebench": Benchmark(title="CaReBench", read=captioning.carebench),
    "next-qa-oe": Benchmark(
        title="NExT-QA, open-ended", read=question_answering.next_qa_open_ended
    ),
    "next-qa-mc": Benchmark(
        title="NExT-QA, multiple choice", read=question_answering.next_qa_multiple_choice
    ),
    "activitynet-qa": Benchmark(title="ActivityNet-QA", read=question_answering.activitynet_qa),
    "vidcapbench": Benchmark(title="VidCapBench", read=question_answering.vidcapbench),
}
