"""Adapters and checkpoints as content-addressed files.

ROOT/adapters/<sha256[:2]>/<sha256>.safetensors holds one adapter, ROOT/checkpoints/<sha256>/ the
files of one checkpoint. Every read checks the sha256, because safetensors loads a flipped bit
without a word.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Final

from storage.errors import AdapterIntegrityError, LakeError, ObjectMissingError
from storage.identity import canonical_json, sha256_hex
from storage.object_store import ObjectStore

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SUMS: Final = "SHA256SUMS.json"
FOLDER: Final = "adapters"
# Where a clean-up moves what no row names, before it deletes it (see garbage).
GARBAGE: Final = "garbage"
# A file that was put this long ago is looked at again before a row names it: a unit may wait for
# its elders longer than a clean-up does.
_TRUST_S: Final = 600.0


class AdapterStore:
    """The adapter files of one lake. Safe to use from several threads."""

    def __init__(self, objects: ObjectStore) -> None:
        """Keep the adapters in `objects`."""
        self._objects = objects
        self._put_at: dict[str, float] = {}
        self._found: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Publish an adapter file, durably and atomically, and return its sha256.

        A file that is already there is kept and made to look new; `settle` looks at it again.
        """
        sha256 = sha256_hex(data)
        if not self._objects.create(_adapter_name(sha256), data):
            self._objects.refresh(_adapter_name(sha256), data)
            self._found[sha256] = data
        self._put_at[sha256] = time.monotonic()
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return an adapter file's bytes, checked against its name.

        Raises:
            ObjectMissingError: the file is not there.
            AdapterIntegrityError: the bytes are not those that were written.
        """
        try:
            return read_checked(self._objects, _adapter_name(sha256), sha256)
        except ObjectMissingError:
            if not self._restore(sha256):
                raise
        return read_checked(self._objects, _adapter_name(sha256), sha256)

    def uri(self, sha256: str) -> str:
        """Return where an adapter file is."""
        return self._objects.uri(_adapter_name(sha256))

    def require(self, sha256s: Iterable[str]) -> None:
        """Raise ObjectMissingError unless every adapter has its file."""
        for sha256 in sha256s:
            put_at = self._put_at.get(sha256, -math.inf)
            is_fresh = time.monotonic() - put_at < _TRUST_S
            if not is_fresh and not self._is_there(sha256):
                raise ObjectMissingError(
                    f"{self.uri(sha256)}: a row names this adapter but it has no file; "
                    "put the adapter before its row is committed"
                )

    def settle(self, sha256s: Iterable[str]) -> None:
        """Write again what a clean-up took between `put` and the commit of these adapters."""
        for sha256 in sha256s:
            self._put_at.pop(sha256, None)
            data = self._found.pop(sha256, None)
            if data is not None and not self._objects.exists(_adapter_name(sha256)):
                self._objects.create(_adapter_name(sha256), data)

    def _is_there(self, sha256: str) -> bool:
        return self._objects.exists(_adapter_name(sha256)) or self._restore(sha256)

    def _restore(self, sha256: str) -> bool:
        name = _adapter_name(sha256)
        aside = f"{GARBAGE}/{name}"
        if not self._objects.exists(aside):
            return False
        self._objects.create(name, self._objects.read(aside))
        return True


def put_checkpoint(objects: ObjectStore, sha256: str, files: Mapping[str, bytes]) -> None:
    """Publish a checkpoint's files; the list of their sha256 comes last and marks it complete."""
    require_sha256(sha256)
    for file, data in files.items():
        if not _FILE_NAME.fullmatch(file) or file == _SUMS:
            raise LakeError(f"checkpoint {sha256}: file name {file!r} is refused; use plain names")
        _create_same(objects, f"checkpoints/{sha256}/{file}", data)
    sums = canonical_json({file: sha256_hex(data) for file, data in files.items()})
    _create_same(objects, f"checkpoints/{sha256}/{_SUMS}", sums.encode())


def get_checkpoint(objects: ObjectStore, sha256: str) -> dict[str, bytes]:
    """Return a checkpoint's files, each checked against its sha256.

    Raises:
        ObjectMissingError: the lake holds no complete checkpoint of this name.
        AdapterIntegrityError: a file's bytes are not those that were written.
    """
    folder = f"checkpoints/{require_sha256(sha256)}"
    sums = _read_sums(objects, sha256)
    return {file: read_checked(objects, f"{folder}/{file}", sums[file]) for file in sums}


def require_checkpoint(objects: ObjectStore, sha256: str) -> None:
    """Raise ObjectMissingError where a checkpoint's file is missing; their bytes are not read."""
    for file in _read_sums(objects, sha256):
        name = f"checkpoints/{sha256}/{file}"
        if not objects.exists(name):
            raise ObjectMissingError(f"{objects.uri(name)}: no such file; put the checkpoint again")


def require_sha256(text: str) -> str:
    """Return a sha256 as it is, or raise LakeError where it is none: names are built of it."""
    if not _SHA256.fullmatch(text):
        raise LakeError(f"sha256 {text[:80]!r}: expected 64 hexadecimal digits; give the full name")
    return text


def read_checked(objects: ObjectStore, name: str, sha256: str) -> bytes:
    """Return a file's bytes, or raise AdapterIntegrityError where they have another sha256."""
    data = objects.read(name)
    found = sha256_hex(data)
    if found != sha256:
        raise AdapterIntegrityError(
            f"{objects.uri(name)}: its bytes have changed (sha256 {found[:12]}, expected "
            f"{sha256[:12]}); delete the file and run again, or restore it from a copy"
        )
    return data


def _read_sums(objects: ObjectStore, sha256: str) -> dict[str, str]:
    name = f"checkpoints/{require_sha256(sha256)}/{_SUMS}"
    try:
        sums = json.loads(objects.read(name))
    except ValueError as error:
        raise AdapterIntegrityError(
            f"{objects.uri(name)}: not a list of sha256 ({error}); put the checkpoint again"
        ) from error
    if not isinstance(sums, dict) or not sums:
        raise AdapterIntegrityError(
            f"{objects.uri(name)}: it lists no files; put the checkpoint again"
        )
    return sums


def _adapter_name(sha256: str) -> str:
    return f"{FOLDER}/{require_sha256(sha256)[:2]}/{sha256}.safetensors"


def _create_same(objects: ObjectStore, name: str, data: bytes) -> None:
    if not objects.create(name, data):
        read_checked(objects, name, sha256_hex(data))
