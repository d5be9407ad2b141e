"""Shards as runs of a Prefect deployment: submitting them, and what became of those submitted.

The key `<run_id>:<shard>:<attempt>` makes a submission happen once: Prefect answers the same key
with the run that it has, also when that has crashed, so another try is another attempt.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from configs.schema import InternalizeConfig
from flows.reconcile import ShardRun, StateName
from video2lora_core.errors import UsageError

logger = logging.getLogger(__name__)

DEPLOYMENT: Final = "internalize-shard/shard"
_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PAGE: Final = 200

T = TypeVar("T")


class PrefectShards:
    """The shards of runs, as the configured Prefect API knows them."""

    def submit(self, config: InternalizeConfig, *, run_id: str, shard: int, attempt: int) -> None:
        """Start an attempt at a shard; the same attempt again starts nothing.

        Raises:
            UsageError: there is no such deployment.
        """
        parameters = {"config": config.model_dump(mode="json"), "run_id": run_id, "shard": shard}
        try:
            patiently(
                lambda: run_deployment(
                    DEPLOYMENT,
                    parameters=parameters,
                    timeout=0,
                    idempotency_key=f"{run_id}:{shard}:{attempt}",
                    flow_run_name=f"{run_id[:8]}-shard-{shard}-attempt-{attempt}",
                    tags=["video2lora", _tag(run_id)],
                    as_subflow=False,
                )
            )
        except ObjectNotFound as error:
            raise UsageError(
                f"Prefect: there is no deployment {DEPLOYMENT}, which `shards: deployment` needs; "
                "run `video2lora deploy`, or set `shards: here`"
            ) from error
        logger.info("run %s: shard %d submitted, attempt %d", run_id[:12], shard, attempt)

    def of_run(self, run_id: str) -> list[ShardRun]:
        """List every attempt at every shard of a run."""
        found = []
        for run in self._flow_runs(run_id):
            place = (run.idempotency_key or "").split(":")
            if len(place) == 3 and place[0] == run_id and run.state is not None:
                found.append(
                    ShardRun(
                        shard=int(place[1]),
                        attempt=int(place[2]),
                        state=cast(StateName, run.state.type.value),
                        since=run.state.timestamp,
                        flow_run_id=str(run.id),
                    )
                )
        return found

    def give_up(self, run: ShardRun, why: str) -> None:
        """Mark a run that nobody executes as crashed, which frees the slots that it holds."""
        with get_client(sync_client=True) as client:
            patiently(
                lambda: client.set_flow_run_state(
                    UUID(run.flow_run_id), Crashed(message=why), force=True
                )
            )

    @staticmethod
    def _flow_runs(run_id: str) -> Iterator[FlowRun]:
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(run_id)]))
        offset = 0
        with get_client(sync_client=True) as client:
            while True:
                page: list[FlowRun] = patiently(
                    lambda: client.read_flow_runs(
                        flow_run_filter=wanted,
                        limit=_PAGE,
                        offset=offset,  # noqa: B023 (called before it changes)
                    )
                )
                yield from page
                if len(page) < _PAGE:
                    return
                offset += _PAGE


def patiently(call: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Call the server again where it says that it is busy: a starved SQLite answers so."""
    for pause_s in _PAUSES_S:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            logger.warning("Prefect: %s; again in %.0f s", error, pause_s)
            sleep(pause_s)
    return call()


def is_transient(error: BaseException) -> bool:
    """Say whether another try may help: a busy server, a locked database, a broken connection."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        return getattr(response, "status_code", None) in _TRANSIENT
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    is_broken = "httpx.TransportError" in kinds or isinstance(error, ConnectionError)
    return is_broken or "database is locked" in str(error)


def _tag(run_id: str) -> str:
    return f"run:{run_id[:16]}"
