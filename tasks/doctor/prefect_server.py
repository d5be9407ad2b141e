"""Prefect's server, where one is configured: whether it answers, and which version it is."""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from storage.errors import without_secrets
from tasks.doctor.finding import Finding, Patient, fault, ok, warning

_NAME: Final = "prefect server"
_TIMEOUT_S: Final = 10


def check_prefect_server(patient: Patient) -> Iterator[Finding]:
    """Ask the server for its health and its version."""
    if patient.prefect_api is None:
        yield ok(_NAME, "no API configured: `--engine local` is used")
        return
    url = patient.prefect_api.rstrip("/")
    shown = without_secrets(url)
    try:
        _get(f"{url}/health")
        found = _get(f"{url}/admin/version")
    except urllib.error.HTTPError as error:
        yield fault(
            _NAME,
            f"{shown} answers {error.code}",
            meaning="it refuses this client, or is not Prefect's API",
            fix="prefect config set PREFECT_API_URL=http://HOST:4200/api with its key",
        )
        return
    except (OSError, ValueError) as error:
        yield fault(
            _NAME,
            f"{shown} does not answer ({getattr(error, 'reason', error)})",
            meaning="deployments do not run, and `--engine auto` fails",
            fix="prefect server start, or `unset PREFECT_API_URL` to work without one",
        )
        return
    yield _compared(shown, found.strip('"'))


def _compared(shown: str, found: str) -> Finding:
    ours = version("prefect")
    if found.split(".")[:2] == ours.split(".")[:2]:
        return ok(_NAME, f"{shown}: version {found}")
    return warning(
        _NAME,
        f"{shown}: version {found}, here {ours}",
        meaning="client and server of different versions are not tested together",
        fix=f"pip install prefect=={found}",
    )


def _get(url: str) -> str:
    request = urllib.request.Request(url, headers=_credentials())
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        return str(json.dumps(json.load(answer)))


def _credentials() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if text := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
    return {}
