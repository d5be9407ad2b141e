"""The flow of the deployment `reconcile`, which finds runs that were left and finishes them."""

import uuid
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run as current_run
from pydantic import Field

from configs.schema import InternalizeConfig
from flows import prefect_events
from flows.local_engine import LocalEngine
from flows.prefect_engine import PrefectEngine
from flows.prefect_shards import PrefectShards
from flows.reconcile import Reconciled, Rule, reconcile
from tasks.recipe import make_recipe
from tasks.summary import PublishSummary


@flow(name="reconcile", persist_result=False, validate_parameters=True)
def reconcile_flow(
    lake: Annotated[str, Field(min_length=1)],
    stuck_after_s: Annotated[float, Field(gt=0)] = 1800.0,
    max_attempts: Annotated[int, Field(gt=0)] = 5,
    dry_run: bool = False,
) -> list[Reconciled]:
    """Submit shards again whose runs died or are stuck, and publish the runs that are done."""
    return reconcile(
        lake,
        PrefectEngine(),
        PrefectShards(),
        rule=Rule(stuck_after_s=stuck_after_s, max_attempts=max_attempts),
        attempt_id=current_run.get_id() or uuid.uuid4().hex,
        announce=announce,
        is_dry_run=dry_run,
    )


def announce(config: InternalizeConfig, run_id: str, published: PublishSummary) -> None:
    """Emit the event of a run that was published here."""
    if published.is_first:
        recipe_id = make_recipe(config).recipe_id
        prefect_events.announce(config.lake, published, run_id=run_id, recipe_id=recipe_id)


def reconcile_here(
    lake: str, stuck_after_s: float, max_attempts: int, *, is_dry_run: bool
) -> list[Reconciled]:
    """Do the same in this process, as no flow run of its own; for the command line."""
    return reconcile(
        lake,
        LocalEngine(),
        PrefectShards(),
        rule=Rule(stuck_after_s=stuck_after_s, max_attempts=max_attempts),
        attempt_id=uuid.uuid4().hex,
        announce=announce,
        is_dry_run=is_dry_run,
    )
