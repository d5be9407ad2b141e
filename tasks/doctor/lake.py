"""The lake: reachable, writable, and safe for two writers at once; on S3 also who we are."""

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

from storage.errors import LakeError, StorageError, reason_of
from storage.lake import find_lake
from storage.object_store import LocalObjectStore
from storage.remote import endpoint_url, file_system, is_remote, require_credentials
from storage.s3_objects import S3ObjectStore
from tasks.doctor.finding import Finding, Patient, fault, ok, warning

_TIMEOUT_S: Final = 10
# S3 refuses requests that are 15 minutes off.
_SKEW_WARNING_S, _SKEW_FAULT_S = 60.0, 600.0

# s3fs passes on the store's message without its code.
_WRONG_KEYS: Final = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "Access Key Id you provided",
    "signature we calculated",
)
_NO_BUCKET: Final = ("NoSuchBucket", "bucket does not exist")


def check_lake(patient: Patient) -> Iterator[Finding]:
    """Look at the lake, if one is named; nothing stays behind in it."""
    if patient.lake is None:
        return
    if is_remote(patient.lake):
        yield from _remote(patient.lake)
    else:
        yield from _local(Path(patient.lake).expanduser().absolute(), patient.lake)


def _local(root: Path, uri: str) -> Iterator[Finding]:
    name = "lake"
    try:
        lake = find_lake(uri)
    except StorageError as error:
        fix = f"video2lora verify --lake {uri}"
        yield fault(name, reason_of(error), meaning="its catalog cannot be read", fix=fix)
        return
    yield ok(name, f"{root}" if lake else f"{root}: none yet, the first run makes it")
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".probe-") as folder:
            store = LocalObjectStore(Path(folder))
            is_safe = store.create("probe", b"1") and not store.create("probe", b"2")
    except (OSError, StorageError) as error:
        yield fault(
            "lake's writing",
            f"{place}: {reason_of(error)}",
            meaning="no run can write here",
            fix=f"ls -ld {place}; give a directory that you may write to with --lake",
        )
        return
    if is_safe:
        yield ok("lake's writing", "a file was made once, a second time refused, and removed")
    else:
        yield fault(
            "lake's writing",
            f"{place}: a second writer may overwrite the first",
            meaning="the file system has no exclusive links",
            fix="use a local disk, NFS 3 or later, or s3://",
        )


def _remote(uri: str) -> Iterator[Finding]:
    try:
        require_credentials(uri)
    except LakeError as error:
        fix = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..., or AWS_PROFILE"
        yield fault("S3 credentials", str(error), meaning="nothing can be read there", fix=fix)
        return
    yield ok("S3 credentials", "found")
    if uri.startswith(("s3://", "s3a://")):
        reached = list(_endpoint())
        yield from reached
        if any(finding.check == "S3 endpoint" and finding.state == "fault" for finding in reached):
            return  # what follows would wait a minute for the same answer
    store = S3ObjectStore(uri, file_system(uri))
    try:
        next(iter(store.names("published")), None)
        yield ok("lake", f"{uri}: readable")
    except StorageError as error:
        yield _refused("lake", uri, error)
        return
    try:
        store.require_conditional_create()
        yield ok("lake's writing", "a second conditional put was refused")
    except StorageError as error:
        yield _refused("lake's writing", uri, error)


def _refused(name: str, uri: str, error: StorageError) -> Finding:
    said = reason_of(error)
    root = "/".join(uri.split("/")[:3])
    fix = f"aws s3 ls {root} (the same keys and endpoint); see docs/s3.md for the rights it needs"
    if any(mark in said for mark in _WRONG_KEYS):
        fix = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... with keys of this store"
    elif any(mark in said for mark in _NO_BUCKET):
        fix = f"aws s3 mb {root}"
    return fault(name, said, meaning="no run can work there", fix=fix)


def _endpoint() -> Iterator[Finding]:
    url = endpoint_url()
    before_s = time.time()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")  # it refuses who does not sign, and that is an answer
    except (OSError, ValueError) as error:
        yield fault(
            "S3 endpoint",
            f"{url} does not answer ({getattr(error, 'reason', error)})",
            meaning="neither videos nor the lake can be reached",
            fix=f"curl -sI {url}; correct AWS_ENDPOINT_URL",
        )
        return
    yield ok("S3 endpoint", f"{url} answers")
    if date:
        middle_s = (before_s + time.time()) / 2
        yield _clock(parsedate_to_datetime(date).timestamp() - middle_s)


def _clock(skew_s: float) -> Finding:
    found = f"{skew_s:+.0f} s against the store"
    if abs(skew_s) < _SKEW_WARNING_S:
        return ok("clock", found)
    fix = "sudo chronyc makestep, or timedatectl set-ntp true"
    meaning = "S3 refuses requests that are 15 minutes off (RequestTimeTooSkewed)"
    if abs(skew_s) < _SKEW_FAULT_S:
        return warning("clock", found, meaning=meaning, fix=fix)
    return fault("clock", found, meaning=meaning, fix=fix)
