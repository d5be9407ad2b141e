"""Where remote files live, for both S3 clients: fsspec's s3fs and delta-rs' own.

Both are configured from one mapping of AWS_* names, laid over the environment when a lake is
opened; nothing is read at import. Secrets stay in these objects and are never logged.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import fsspec

_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_KEYS: Final = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}
_REGIONS: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")


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
    merged["AWS_REGION"] = _first(merged, _REGIONS) or "us-east-1"
    # Commits are safe without a lock service because a second conditional put fails.
    merged["AWS_CONDITIONAL_PUT"] = "etag"
    return merged


def file_system(uri: str, options: Mapping[str, str] | None = None) -> fsspec.AbstractFileSystem:
    """Return the fsspec file system of a remote URI."""
    protocol = uri.partition("://")[0]
    if protocol not in ("s3", "s3a"):
        return fsspec.filesystem(protocol)
    merged = _merged(options)
    settings: dict[str, Any] = {
        ours: merged[name] for name, ours in _KEYS.items() if merged.get(name)
    }
    client = {
        "endpoint_url": _first(merged, _ENDPOINTS),
        "region_name": _first(merged, _REGIONS),
    }
    # No listings cache: other processes write to the same lake.
    return fsspec.filesystem(
        "s3",
        client_kwargs={name: value for name, value in client.items() if value},
        use_listings_cache=False,
        **settings,
    )


def _merged(options: Mapping[str, str] | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**environment, **(options or {})}


def _first(merged: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((merged[name] for name in names if merged.get(name)), None)
