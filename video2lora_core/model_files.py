"""The files of a VLM: where they are, whether they are all there, and their hash.

Only `config.json`, `tokenizer.json`, `model*.safetensors` and the chat template are looked at: no
pickle and no code.
A hub id goes through the hub client and its cache, which also honours HF_HUB_OFFLINE.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from video2lora_core.errors import UsageError

FILES = ("config.json", "tokenizer.json", "model*.safetensors")
# Compared with the prompt layout where they are there.
_OPTIONAL_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_READ_BYTES = 1 << 20


def find_files(source: str | Path, revision: str | None) -> tuple[Path, str | None]:
    """Return the local directory and, for a hub id, the commit."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise UsageError(
                f"vlm: revision {revision!r} was given for the directory {directory} (expected "
                "none); leave it out"
            )
        return directory, None
    if isinstance(source, Path) or _is_path(source):
        raise UsageError(
            f"vlm: {directory} is not a directory (expected a directory with {', '.join(FILES)}, "
            "or a hub id such as owner/name); correct the path"
        )
    try:
        wanted = [*FILES, *_OPTIONAL_FILES]
        snapshot = Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
    # OSError: not in the cache, not on the hub, no network; all hub errors derive from it.
    except (OSError, HFValidationError) as error:
        at = "" if revision is None else f" --revision {revision}"
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"vlm: the weights of {source} are not on this machine and could not be fetched "
            f"({type(error).__name__}: {reason}); run `hf download {source}{at}` where there is a "
            "network: it fills the hub's cache (HF_HOME, by default ~/.cache/huggingface), which "
            "may be copied here; or give a local directory"
        ) from error
    return snapshot, snapshot.name


def find_tokenizer(source: str, revision: str | None) -> Path | None:
    """Return a model's tokenizer.json if it is on this machine; nothing is fetched."""
    directory: Path | None = Path(source).expanduser()
    if directory is not None and not directory.is_dir():
        try:
            directory = Path(snapshot_download(source, revision=revision, local_files_only=True))
        except (OSError, HFValidationError):
            directory = None
    tokenizer = directory / "tokenizer.json" if directory is not None else None
    return tokenizer if tokenizer is not None and tokenizer.is_file() else None


def require_files(directory: Path, source: str | Path) -> list[Path]:
    """Return the weight files in the order of their names, or say what is missing."""
    missing = [pattern for pattern in FILES if not any(directory.glob(pattern))]
    if missing:
        raise UsageError(
            f"vlm: {source} has no {', '.join(missing)} (expected {', '.join(FILES)}); fetch the "
            f"model with `hf download OWNER/NAME --local-dir {directory}`"
        )
    return sorted(directory.glob("model*.safetensors"))


def files_sha256(paths: Iterable[Path]) -> str:
    """Hash the bytes of files, one after the other, without holding them."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") != 1
