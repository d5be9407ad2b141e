"""prefect.yaml with a user's lake and corpus in it, and the server made ready for it.

The deployments are ordinary Prefect: the file's `definitions` hold what differs between users as
YAML anchors. Whoever keeps a copy of the file in their own repository edits those lines and runs
`prefect deploy --all`; this does the same without a copy.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from flows import prefect_settings
from flows.device_workers import CONTROL_POOL, DEVICE_POOL
from storage.manifest import refuse_credentials
from storage.remote import is_remote
from video2lora_core.errors import UsageError

POOLS: Final = (CONTROL_POOL, DEVICE_POOL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a user fills in."""

    lake: str
    corpus: str
    model: str
    questions: str | None
    is_scheduled: bool


def filled(file: Path, settings: Settings) -> str:
    """Return the deployments' YAML with the settings in it.

    Raises:
        UsageError: there is no such file.
        CredentialsError: a URI carries credentials.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be read ({error.strerror}); run in a checkout of video2lora, or give "
            "--file"
        ) from None
    values = {
        "lake": _absolute(settings.lake),
        "corpus": _absolute(settings.corpus),
        "model": _absolute(settings.model) if _is_path(settings.model) else settings.model,
        "questions": _absolute(settings.questions or "questions.jsonl"),
        "report": _absolute("report.html"),
    }
    content = yaml.safe_load(text)
    before = dict(content["definitions"])
    _replace(content, {before[name]: value for name, value in values.items()})
    for deployment in content["deployments"]:
        for schedule in deployment.get("schedules", []):
            schedule["active"] = schedule["active"] or settings.is_scheduled
        for trigger in deployment.get("triggers", []):
            trigger["enabled"] = settings.questions is not None
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def deploy_all(file: Path, settings: Settings) -> None:
    """Create the work pools and the deployments on the configured Prefect server.

    Raises:
        UsageError: no server is configured, or Prefect refused.
    """
    if not prefect_settings.is_api_configured():
        raise UsageError(
            "deploy: no Prefect server is configured (PREFECT_API_URL is not set, and no profile "
            "names one); start `prefect server start`, then set PREFECT_API_URL"
        )
    text = filled(file, settings)
    prefect_settings.apply()
    from flows.prefect_pools import create_missing

    create_missing(POOLS)
    with tempfile.TemporaryDirectory(prefix="video2lora-") as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(text, encoding="utf-8")
        _deploy(path)


def _deploy(path: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    # The file's own placeholder: a shell sets it, a program's change of folder does not.
    environment = {**os.environ, "PWD": str(Path.cwd())}
    done = subprocess.run([*command, "--prefect-file", str(path)], check=False, env=environment)
    if done.returncode != 0:
        raise UsageError(
            f"deploy: prefect ended with status {done.returncode}, its message is above; see "
            "docs/operating.md"
        )


def _replace(node: Any, values: dict[str, str]) -> None:
    """Replace what the anchors stood for, wherever they were used."""
    places = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(places):
        if isinstance(value, dict | list):
            _replace(value, values)
        elif isinstance(value, str) and value in values:
            node[key] = values[value]


def _absolute(uri: str) -> str:
    refuse_credentials(uri)
    if is_remote(uri) or "://" in uri or uri.startswith("catalog:"):
        return uri
    return str(Path(uri).expanduser().absolute())


def _is_path(model: str) -> bool:
    return model.endswith((".yaml", ".yml"))
