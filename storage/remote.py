"""Where remote files live, for both S3 clients: fsspec's s3fs and delta-rs' own.

Both are configured from one mapping of AWS_* names, laid over the environment when a lake is
opened; nothing is read at import. Secrets stay in these objects and are never logged. Both try
again where a store is busy or out of reach, and give up in a minute or two instead of an hour.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import botocore.session  # type: ignore[import-untyped]  # it has no types
import fsspec
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # as above

from storage.errors import LakeError, reason_of

_S3: Final = ("s3", "s3a")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}
_REGIONS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
_RETRY_SETTINGS: Final = ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")

_CONNECT_S: Final = 5
# How long an answer may keep silent; s3fs' own 15 s are short for a store that is busy.
_READ_S: Final = 30
# Pauses double from one attempt to the next: botocore waits 8 s in all on average and 15 s at most,
# delta-rs about 10 s.
_ATTEMPTS: Final = 5
_DELTA_RETRIES: Final = 8
_DELTA_RETRY_S: Final = 60
# s3fs goes through all attempts again where a connection breaks, five times if one lets it.
_ROUNDS: Final = 2


def is_remote(uri: str) -> bool:
    """Say whether a URI names something other than a local file."""
    return "://" in uri and not uri.startswith("file://")


def delta_options(options: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return delta-rs' storage options: AWS_* from the environment, overlaid by `options`."""
    merged = _merged(options)
    endpoint = _first(merged, _ENDPOINTS)
    if endpoint:
        merged["AWS_ENDPOINT_URL"] = endpoint
        if endpoint.startswith("http://"):
            merged["AWS_ALLOW_HTTP"] = "true"
    merged["AWS_REGION"] = _region(merged)
    # Commits are safe without a lock service because a second conditional put fails.
    merged["AWS_CONDITIONAL_PUT"] = "etag"
    limits = {
        "connect_timeout": f"{_CONNECT_S}s",
        "max_retries": str(_DELTA_RETRIES),
        "retry_timeout": f"{_DELTA_RETRY_S}s",
    }
    return {**limits, **merged}


def endpoint_url(options: Mapping[str, str] | None = None) -> str:
    """Return the URL of the S3 service that both clients ask."""
    merged = _merged(options)
    return _first(merged, _ENDPOINTS) or f"https://s3.{_region(merged)}.amazonaws.com"


def require_credentials(uri: str, options: Mapping[str, str] | None = None) -> None:
    """Raise LakeError where no S3 credentials can be found; asks the one client that gives up fast.

    delta-rs would look for a cloud machine's role until its retries are used up, and log it.
    """
    merged = _merged(options)
    if uri.partition("://")[0] not in _S3:
        return
    if merged.get("AWS_ACCESS_KEY_ID") and merged.get("AWS_SECRET_ACCESS_KEY"):
        return
    try:
        if _session(merged).get_credentials() is not None:
            return
        said = "none in the environment, in a profile or from this machine's role"
    except BotoCoreError as error:
        said = reason_of(error)
    raise LakeError(
        f"{uri}: no S3 credentials ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE (docs/s3.md)"
    )


def file_system(uri: str, options: Mapping[str, str] | None = None) -> fsspec.AbstractFileSystem:
    """Return the fsspec file system of a remote URI."""
    protocol = uri.partition("://")[0]
    if protocol not in _S3:
        return fsspec.filesystem(protocol)
    return _configured(fsspec.get_filesystem_class("s3"), options)


def live_files(options: Mapping[str, str] | None = None) -> fsspec.AbstractFileSystem:
    """Return the file system through which SQL reads the tables of a lake on S3."""
    # s3fs takes a while to import, which a local lake need not wait for.
    from storage.live_files import LiveFiles

    return _configured(LiveFiles, options)


def _configured(
    kind: Callable[..., fsspec.AbstractFileSystem], options: Mapping[str, str] | None
) -> fsspec.AbstractFileSystem:
    merged = _merged(options)
    settings: dict[str, Any] = {
        ours: merged[name] for name, ours in _KEYS.items() if merged.get(name)
    }
    client = {
        "endpoint_url": _first(merged, _ENDPOINTS),
        "region_name": _first(merged, _REGIONS),
    }
    # No listings cache: other processes write to the same lake.
    files = kind(
        client_kwargs={name: value for name, value in client.items() if value},
        config_kwargs=_patience(merged),
        use_listings_cache=False,
        **settings,
    )
    files.retries = _ROUNDS
    return files


def _patience(merged: Mapping[str, str]) -> dict[str, Any]:
    patience: dict[str, Any] = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
    if not _first(merged, _RETRY_SETTINGS):
        # The other modes take a plain 429 for final.
        patience["retries"] = {"mode": "legacy", "total_max_attempts": _ATTEMPTS}
    return patience


def _region(merged: Mapping[str, str]) -> str:
    named = _first(merged, _REGIONS)
    return named or _session(merged).get_config_variable("region") or "us-east-1"


def _session(merged: Mapping[str, str]) -> botocore.session.Session:
    return botocore.session.Session(profile=merged.get("AWS_PROFILE"))


def _merged(options: Mapping[str, str] | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**environment, **(options or {})}


def _first(merged: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((merged[name] for name in names if merged.get(name)), None)
