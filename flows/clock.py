"""Times as people write them: `75`, `1:15`, `00:01:15.5` are the same instant."""

import re
from datetime import UTC, datetime

from video2lora_core.errors import UsageError

_TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d{1,6})?)")


def parse_time_us(text: str) -> int:
    """Read `SS`, `MM:SS` or `H:MM:SS`, with up to six decimals, as microseconds.

    Raises:
        UsageError: the text is no time.
    """
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise UsageError(
            f"time {text!r}: cannot be read (expected seconds, MM:SS or H:MM:SS); write e.g. 01:15"
        )
    hours, minutes, seconds = found.groups()
    whole, _, decimals = seconds.partition(".")
    total_s = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(whole)
    return total_s * 1_000_000 + int(decimals.ljust(6, "0") or 0)


def show_time(time_us: int) -> str:
    """Write microseconds as MM:SS.s, or H:MM:SS.s from one hour on."""
    minutes, tenths = divmod(time_us // 100_000, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{tenths / 10:04.1f}"
    return f"{hours}:{text}" if hours else text


def parse_as_of(text: str) -> datetime | dict[str, int]:
    """Read a time (ISO 8601, UTC where it names no zone) or `TABLE=VERSION,TABLE=VERSION`.

    Raises:
        UsageError: the text is neither.
    """
    try:
        if "=" in text:
            pairs = (pair.split("=") for pair in text.split(","))
            return {table.strip(): int(version) for table, version in pairs}
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"as-of {text!r}: cannot be read (expected a time or TABLE=VERSION); write e.g. "
            "2026-11-20T08:00 or adapters=12,segments=12"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
