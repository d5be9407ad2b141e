"""Logging of the command line: lines for people, or one JSON object per line for machines.

Both go to stderr; stdout is for results. Secrets are taken out of messages and tracebacks, also
where a library puts them in.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from flows.manners import current

LogFormat = Literal["text", "json"]
OURS: Final = ("flows", "tasks", "video2lora_core", "storage")
_PREFECT_SETTINGS: Final = "prefect-logging-json.yaml"
_EXTRAS: Final = ("flow_run_id", "flow_run_name", "task_run_name", "exit_code")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, run_id, shard."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        from storage.errors import without_secrets
        from tasks.working_on import current as worked_on

        written = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": written.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
            **worked_on(),
        }
        line |= {name: str(found) for name in _EXTRAS if (found := getattr(record, name, None))}
        if record.exc_info:
            line["traceback"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Writes a record for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        from storage.errors import without_secrets

        return without_secrets(super().format(record))


def set_up_logging() -> None:
    """Log to stderr as the manners of this call say; a second call replaces the first."""
    manners = current()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter()
        if manners.log_format == "json"
        else TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.ERROR if manners.is_quiet else logging.WARNING
    if manners.is_verbose or manners.log_format == "json":
        level = logging.INFO
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    if manners.log_format == "json":
        # Prefect replaces the root's handlers when it is first imported, here and in its children.
        found = Path(__file__).parents[1] / "configs" / _PREFECT_SETTINGS
        os.environ.setdefault("PREFECT_LOGGING_SETTINGS_PATH", str(found))
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
