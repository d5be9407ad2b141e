"""Settings that every test shares, in place before torch, Prefect or the core are imported."""

import os
import tempfile
from pathlib import Path

# Offline and quiet: a test that reaches for a hub, a server or a cloud account is wrong.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "PREFECT_HOME": str(Path(tempfile.gettempdir()) / f"video2lora-tests-prefect-{os.getuid()}"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    # Two cores carry the whole suite: more threads only fight.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
os.environ.update(SETTINGS)
os.environ.pop("PREFECT_API_URL", None)

from hypothesis import HealthCheck, settings  # noqa: E402  (after the environment above)
from jaxtyping import install_import_hook  # noqa: E402

# Every shape in a core signature is checked while the tests run.
install_import_hook("video2lora_core", "beartype.beartype")

settings.register_profile(
    "house",
    deadline=None,  # the machine may be busy: slowness is no counter-example
    derandomize=True,  # a test that passes today passes tomorrow
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("house")
