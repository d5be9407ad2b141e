"""Settings that Prefect must see before it is first imported; this module imports no Prefect.

Values that the user has set always win, PREFECT_HOME included: it is set here only for runs that
must leave a user's own Prefect alone (the demo).
"""

import os
from pathlib import Path

_DEFAULTS = {
    # The ephemeral server needs 9-16 s on a quiet machine and minutes on a cold, busy disk.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    # Nothing leaves the machine.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "DO_NOT_TRACK": "1",
    # Quiet: the flow's own summary is what a person reads.
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,video2lora_core,storage",
}
_EPHEMERAL = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}


def apply(*, home: Path | None = None) -> None:
    """Put the defaults into the environment of this process.

    Args:
        home: a private PREFECT_HOME, whose server is this process's own.
    """
    settings = _DEFAULTS if is_api_configured() and home is None else {**_DEFAULTS, **_EPHEMERAL}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(home.absolute())
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "true"


def is_api_configured() -> bool:
    """Say whether this environment or the active Prefect profile names a Prefect API."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        return _active_profile_has_api(profiles.read_text(encoding="utf-8"))
    except OSError:
        return False


def _active_profile_has_api(text: str) -> bool:
    import tomllib

    try:
        profiles = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active", ""))
    return bool(profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL"))
