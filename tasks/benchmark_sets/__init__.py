"""Question sets out of the public annotation files of known benchmarks (docs/benchmark-sets.md)."""

from tasks.benchmark_sets.known import BENCHMARKS, Benchmark
from tasks.benchmark_sets.read import read_benchmark, stream_benchmark
from tasks.benchmark_sets.rows import BadRow
from tasks.benchmark_sets.write import write_question_set

__all__ = [
    "BENCHMARKS",
    "BadRow",
    "Benchmark",
    "read_benchmark",
    "stream_benchmark",
    "write_question_set",
]
