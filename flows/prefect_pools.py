"""The work pools that prefect.yaml names, made where the server lacks them."""

import asyncio
import logging
from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

logger = logging.getLogger(__name__)


def create_missing(names: Sequence[str]) -> list[str]:
    """Create process pools of these names; one that is there stays as it is, whatever its type."""
    return asyncio.run(_create_missing(names))


async def _create_missing(names: Sequence[str]) -> list[str]:
    created = []
    async with get_client() as client:
        for name in names:
            try:
                await client.read_work_pool(name)
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
                try:
                    await client.create_work_pool(pool)
                except ObjectAlreadyExists:
                    continue  # somebody was faster
                created.append(name)
                logger.info("work pool %s: created", name)
    return created
