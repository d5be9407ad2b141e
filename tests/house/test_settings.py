"""The settings that the rest of the suite relies on."""

import os


def test_the_suite_runs_offline() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "PREFECT_API_URL" not in os.environ
