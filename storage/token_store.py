"""Visual tokens as files that may go at any time: a cache, which no row names.

    ROOT/visual_tokens/<sight_id>/<video_id[:2]>/<video_id>/<start_us>-<end_us>.<sha256>.safetensors
    ROOT/visual_tokens/sights/<sight_id>.json       what the sight is, for people

A sight is all that decides what the model sees in a segment. One listing of a video's folder tells
which of its segments are there, and the hash in a file's name is checked on reading, as an
adapter's is. Two machines may see the same segment with other last bits; then the first file by
name counts. Nothing depends on these files, so they are deleted without the two looks that
adapters are given (garbage.py): who misses one decodes the video.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from storage.adapter_store import read_checked, require_sha256
from storage.errors import LakeError, ObjectMissingError
from storage.identity import canonical_json, sha256_hex
from storage.object_store import ObjectStore

FOLDER: Final = "visual_tokens"
_SIGHTS: Final = f"{FOLDER}/sights"
ALL: Final = "all"
_HEX: Final = "[0-9a-f]{64}"
_SHA256: Final = re.compile(_HEX)
_NAME: Final = re.compile(
    rf"{FOLDER}/(?P<sight_id>{_HEX})/[0-9a-f]{{2}}/(?P<video_id>{_HEX})/"
    rf"(?P<start_us>\d+)-(?P<end_us>\d+)\.(?P<sha256>{_HEX})\.safetensors"
)

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFile:
    """One segment's visual tokens, as its file's name tells."""

    sight_id: str
    video_id: str
    start_us: int
    end_us: int
    sha256: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a name below the lake's root; None where it is no such file's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        parts: dict[str, Any] = found.groupdict()
        parts |= {"start_us": int(parts["start_us"]), "end_us": int(parts["end_us"])}
        return cls(**parts)

    @property
    def name(self) -> str:
        """The path below the lake's root."""
        folder = video_folder(self.sight_id, self.video_id)
        return f"{folder}/{self.start_us}-{self.end_us}.{self.sha256}.safetensors"


class TokenStore:
    """The visual tokens of one sight. Safe to use from several threads."""

    def __init__(self, objects: ObjectStore, sight_id: str) -> None:
        """Keep them in `objects`."""
        self._objects = objects
        self.sight_id = require_sha256(sight_id)

    def describe(self, content: Mapping[str, Any]) -> None:
        """Say for people what the sight is; again changes nothing."""
        name = f"{_SIGHTS}/{self.sight_id}.json"
        self._objects.create(name, canonical_json(dict(content)).encode())

    def find(self, video_id: str) -> dict[Span, TokenFile]:
        """List what is there of a video, by span."""
        found: dict[Span, TokenFile] = {}
        for name in self._objects.names(video_folder(self.sight_id, video_id)):
            file = TokenFile.parse(name)
            if file is not None:
                found.setdefault((file.start_us, file.end_us), file)
        return found

    def get(self, file: TokenFile) -> bytes:
        """Return a file's bytes, checked against its name.

        Raises:
            ObjectMissingError: it is not there any more.
            AdapterIntegrityError: the bytes are not those that were written.
        """
        return read_checked(self._objects, file.name, file.sha256)

    def put(self, video_id: str, span: Span, data: bytes) -> TokenFile:
        """Publish a segment's visual tokens, durably and atomically."""
        file = TokenFile(
            sight_id=self.sight_id,
            video_id=video_id,
            start_us=span[0],
            end_us=span[1],
            sha256=sha256_hex(data),
        )
        self._objects.create(file.name, data)
        return file

    def remove(self, file: TokenFile) -> None:
        """Delete a file, so that a good one can take its place."""
        self._objects.delete(file.name)


def video_folder(sight_id: str, video_id: str) -> str:
    """Return where the tokens of a video are."""
    return f"{FOLDER}/{require_sha256(sight_id)}/{require_sha256(video_id)[:2]}/{video_id}"


def sights(objects: ObjectStore) -> dict[str, dict[str, Any]]:
    """Return what the lake's sights are, by their ids, as `describe` was told."""
    found = {}
    for name in objects.names(_SIGHTS):
        sight_id = name.rpartition("/")[2].removesuffix(".json")
        if _SHA256.fullmatch(sight_id):
            found[sight_id] = _described(objects, name)
    return found


def files_of(objects: ObjectStore, video_ids: Collection[str]) -> Iterator[TokenFile]:
    """List the tokens of some videos, under every sight that is described."""
    for sight_id in sights(objects):
        for video_id in video_ids:
            if _SHA256.fullmatch(video_id):
                yield from TokenStore(objects, sight_id).find(video_id).values()


def resolve_sight(objects: ObjectStore, text: str, *, found: Iterable[str]) -> set[str]:
    """Return the sight_ids meant by an id, its first digits, or `all`.

    `found` are those that have files, described or not.

    Raises:
        LakeError: no sight fits, or several do.
    """
    described = sights(objects)
    known = {*found, *described}
    if text == ALL:
        return known
    fitting = {sight_id for sight_id in known if text and sight_id.startswith(text)}
    if len(fitting) != 1:
        listed = ", ".join(_shown(each, described.get(each, {})) for each in sorted(known))
        raise LakeError(
            f"visual tokens: {len(fitting)} sights begin with {text!r} (expected one of: "
            f"{listed or 'there are none'}); give more digits, or {ALL}"
        )
    return fitting


def description_of(sight_id: str) -> str:
    """Return the name of the file that says what a sight is."""
    return f"{_SIGHTS}/{require_sha256(sight_id)}.json"


def _described(objects: ObjectStore, name: str) -> dict[str, Any]:
    try:
        content = json.loads(objects.read(name))
    except (ObjectMissingError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _shown(sight_id: str, content: Mapping[str, Any]) -> str:
    model = content.get("model")
    return f"{sight_id[:12]} ({model})" if model else sight_id[:12]
