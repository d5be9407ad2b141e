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
from typing import Final, TextIO

from flows.manners import LogFormat, current

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


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at that moment."""

    def __init__(self, *, level: int) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # StreamHandler sets one of its own
        return sys.stderr


def set_up_logging() -> None:
    """Log to stderr as the manners of this call say; a second call replaces the first."""
    manners = current()
    handler = _Stderr(level=logging.ERROR if manners.is_quiet else logging.NOTSET)
    handler.setFormatter(
        JsonFormatter()
        if manners.log_format == LogFormat.JSON
        else TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _Stderr)] + [handler]
    is_told = manners.is_verbose or manners.log_format == LogFormat.JSON
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO if is_told else logging.NOTSET)
    if manners.log_format == LogFormat.JSON:
        # Prefect replaces the root's handlers when it is first imported, here and in its children.
        found = Path(__file__).parents[1] / "configs" / _PREFECT_SETTINGS
        os.environ.setdefault("PREFECT_LOGGING_SETTINGS_PATH", str(found))
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
