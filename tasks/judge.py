"""The optional judge: a language model scores answers from 0 to 1 against their references.

Off unless a JudgeConfig is given. What was judged once is on disk and is not asked again. A
question that gets no score is None and is counted with its reason: it must be left out of means,
never taken for 0.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

from configs.judge_schema import JudgeConfig
from tasks.judge_cache import ScoreCache, cache_key
from tasks.judge_endpoint import Endpoint, UnjudgedError
from tasks.judge_prompt import Score

_log = logging.getLogger(__name__)

_NO_REFERENCE: Final = "no reference"
_GIVEN_UP: Final = "not asked: too many failures in a row"

Asked = tuple[str, str, Sequence[str]]
"""A question, the answer to judge, and its references."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSummary:
    """What a judge has done so far, in distinct questions."""

    num_judged: int
    """Got a score from the endpoint."""
    num_cached: int
    """Had a score on disk."""
    failures: dict[str, int]
    """Got none: how many, by reason."""

    @property
    def num_failed(self) -> int:
        """Questions without a score."""
        return sum(self.failures.values())


class Judge:
    """Scores answers through an endpoint and its cache; a context manager that closes it."""

    def __init__(self, config: JudgeConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Open the endpoint.

        Args:
            config: Which judge.
            sleep: Waits before a retry, in seconds.

        Raises:
            UsageError: the URL or the key cannot be used.
        """
        self._config = config
        self._endpoint = Endpoint(config, sleep=sleep)
        self._cache = ScoreCache(config.cache)
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._num_judged = self._num_cached = 0
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._endpoint.close()

    @property
    def summary(self) -> JudgeSummary:
        """How many questions were judged, found on disk, or got no score."""
        return JudgeSummary(
            num_judged=self._num_judged,
            num_cached=self._num_cached,
            failures=dict(sorted(self._failures.items())),
        )

    def scores(self, asked: Sequence[Asked]) -> list[float | None]:
        """Score answers, in their order; None where there is no score.

        Raises:
            UsageError: the endpoint refuses whatever it is asked.
        """
        keys = [cache_key(self._config.model, *one) for one in asked]
        distinct = dict(zip(keys, asked, strict=True))  # what is asked twice is judged once
        with ThreadPoolExecutor(self._config.concurrency, "judge") as pool:
            try:
                found = dict(
                    zip(distinct, pool.map(self._one, distinct, distinct.values()), strict=True)
                )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if self._failures:
            _log.warning("judge: no score for %d questions: %s", *self._told())
        return [score.value if (score := found[key]) else None for key in keys]

    def _told(self) -> tuple[int, dict[str, int]]:
        summary = self.summary
        return summary.num_failed, summary.failures

    def _one(self, key: str, asked: Asked) -> Score | None:
        question, answer, references = asked
        cached = self._cache.read(key)
        if cached is not None:
            with self._lock:
                self._num_cached += 1
            return cached
        if not references:
            self._count(_NO_REFERENCE)
            return None
        if self._in_a_row >= self._config.max_failures:
            self._count(_GIVEN_UP)
            return None
        try:
            score = self._endpoint.score(question, answer, references)
        except UnjudgedError as error:
            self._count(str(error), is_asked=True)
            return None
        self._cache.write(key, score)
        with self._lock:
            self._num_judged += 1
            self._in_a_row = 0
        return score

    def _count(self, reason: str, *, is_asked: bool = False) -> None:
        with self._lock:
            self._failures[reason] += 1
            self._in_a_row += is_asked
