"""Choose an engine and run the internalization through it."""

from configs.schema import InternalizeConfig
from flows import prefect_settings
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.manifest import refuse_credentials
from tasks.summary import RunSummary


def run_internalize(config: InternalizeConfig) -> RunSummary:
    """Internalize a corpus; Prefect is imported only where its engine is chosen."""
    # Before an engine sees them: Prefect stores the parameters of its runs.
    refuse_credentials(config.corpus)
    refuse_credentials(config.lake)
    engine = config.engine
    if engine == "auto":
        engine = "prefect" if prefect_settings.is_api_configured() else "local"
    if engine == "local":
        return internalize_corpus(config, LocalEngine())
    prefect_settings.apply()
    from flows.prefect_engine import internalize_corpus_flow

    return internalize_corpus_flow(config)
