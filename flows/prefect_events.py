"""The event that a run was published: what starts the deployment that answers questions.

Whoever created published/<run_id>.json emits it, and nobody else. Prefect takes events on a best
effort and a process may die in between, so a schedule of what is triggered is the safety net.
"""

import logging
from typing import Final

from prefect.events import emit_event

from tasks.summary import PublishSummary

logger = logging.getLogger(__name__)

PUBLISHED: Final = "video2lora.catalog.published"
RESOURCE: Final = "video2lora.lake"


def announce(lake: str, published: PublishSummary, *, run_id: str, recipe_id: str) -> bool:
    """Emit the event where this process published the run; say whether it did."""
    if not published.is_first:
        return False
    try:
        emit_event(
            PUBLISHED,
            resource={"prefect.resource.id": f"{RESOURCE}.{lake}", "prefect.resource.name": lake},
            payload={
                "run_id": run_id,
                "lake": lake,
                "recipe_id": recipe_id,
                "num_adapters": published.num_adapters,
                "num_rejects": published.num_rejects,
            },
        )
    except Exception as error:  # the run is published: a server that is down does not undo it
        logger.warning("run %s: published, but the event was not emitted: %s", run_id[:12], error)
        return False
    return True
