"""A released `.pt` becomes a checkpoint of ours, once; it is never opened again after that."""

import logging
from dataclasses import dataclass
from pathlib import Path

from video2lora_core.checkpoint import (
    checkpoint_files,
    checkpoint_sha256,
    save_checkpoint,
)
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import HypernetworkConfig
from video2lora_core.prompts import SMOLVLM2
from video2lora_core.released_checkpoint import Released, read_released_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What an import made."""

    directory: Path
    sha256: str
    """Identity of the checkpoint; adapters made with it carry it."""
    config: HypernetworkConfig
    num_parameters: int
    base_model: str
    """The VLM's name as the file's authors wrote it."""
    is_new: bool
    """False where the directory held this checkpoint already."""


def import_checkpoint(
    released: Path,
    to: Path,
    *,
    internalization_prompt: str = SMOLVLM2.internalization_prompt,
) -> Imported:
    """Write a released checkpoint as safetensors and JSON.

    Args:
        released: the `.pt` file.
        to: the directory to make; one that holds another checkpoint is refused.
        internalization_prompt: what the checkpoint was trained with; the file does not say.

    Raises:
        CheckpointError: the file is hostile, damaged, or needs what is not implemented.
        UsageError: `to` holds something else.
    """
    found = read_released_checkpoint(released)
    info = _info(found, released, internalization_prompt)
    files = checkpoint_files(found.hypernetwork, info=info)
    is_new = _is_to_write(to, files)
    if is_new:
        save_checkpoint(to, found.hypernetwork, info=info)
    sha256 = checkpoint_sha256(files)
    logger.info("checkpoint %s: imported from %s into %s", sha256, released, to)
    return Imported(
        directory=to,
        sha256=sha256,
        config=found.hypernetwork.config,
        num_parameters=sum(p.numel() for p in found.hypernetwork.parameters()),
        base_model=found.base_model,
        is_new=is_new,
    )


def _info(found: Released, released: Path, prompt: str) -> dict[str, object]:
    source = {"file": released.name, "sha256": found.file_sha256, "base_model": found.base_model}
    return {"released": source, "internalization_prompt": prompt}


def _is_to_write(to: Path, files: dict[str, bytes]) -> bool:
    """Whether nothing is there yet; the same checkpoint is left as it is, another is refused."""
    if to.exists() and not to.is_dir():
        raise UsageError(f"import-checkpoint: {to} is a file (expected a directory); give another")
    paths = [to / name for name in files if (to / name).is_file()]
    if not paths:
        return True
    held = {path.name: path.read_bytes() for path in paths}
    # Bounds that were learned since are no difference.
    if held.keys() == files.keys() and checkpoint_sha256(held) == checkpoint_sha256(files):
        return False
    raise UsageError(
        f"import-checkpoint: {to} holds another checkpoint (expected an empty directory or the "
        "same one); adapters may name it, so give another directory"
    )
