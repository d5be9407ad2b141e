"""Opening a released `.pt` file without running anything it says.

A `.pt` is a zip archive whose `data.pkl` is a pickle, and a pickle is a program. It is read in
three steps, each of which refuses before the next begins:

1. The archive: a plain zip of stored (uncompressed) entries under one folder, whose declared sizes
   fit into the file, every checksum right. So nothing can unfold to more than the file's own size.
2. The program's text: the names it would import are listed without running it. All must stand in
   `_STORAGES`, `_BUILDERS` or `_RECORDS`.
3. `torch.load(weights_only=True)`, whose interpreter knows a few instructions only; the classes of
   the authors' code are replaced by `Record`, which stores what it is given and does nothing.
"""

import pickletools
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch

from video2lora_core.errors import CheckpointError

MAX_FILE_BYTES = 8 * 1024**3
MAX_PROGRAM_BYTES = 16 * 1024**2
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ENCRYPTED = 0x1
_PICKLE_PROTOCOL = 2  # torch.save's

_STORAGES = frozenset(f"torch.{kind}Storage" for kind in ("Float", "BFloat16", "Half", "Long"))
_BUILDERS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "builtins.set",
        "__builtin__.set",
    }
)
_RECORDS = frozenset(
    {
        "ctx_to_lora.modeling.hypernet.HypernetConfig",
        "ctx_to_lora.modeling.aggregator.AggregatorConfig",
        "ctx_to_lora.modeling.aggregator.AGGREGATOR_TYPE",
        "ctx_to_lora.pooling.POOL_FN",
        "ctx_to_lora.configs.CtxEncoderArguments",
        "peft.tuners.lora.config.LoraConfig",
        "peft.tuners.lora.config.LoraRuntimeConfig",
        "peft.utils.peft_types.PeftType",
    }
)
# Instructions that import by other means than GLOBAL; no file written by torch.save has one.
_OTHER_IMPORTS = frozenset({"INST", "OBJ", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})
# What the restricted interpreter raises over a program that makes no sense.
_LOAD_ERRORS = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    struct.error,
)


class Record:
    """Stands for a class of the authors' code: keeps its arguments and fields, does nothing."""

    args: tuple[object, ...]

    def __new__(cls, *args: object) -> "Record":
        """Keep the arguments; fields come as attributes. A pickle may skip `__init__`."""
        record = super().__new__(cls)
        record.args = args
        return record

    def __init__(self, *args: object) -> None:
        """Take what `__new__` has kept."""


def read_released_archive(path: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """Return what a released `.pt` holds: tensors on the CPU, and `Record`s, by key.

    Raises:
        CheckpointError: the file is missing, damaged, too large, or does more than hold tensors.
    """
    _check_file(path, max_file_bytes)
    with _open(path) as archive:
        _check_entries(archive, path)
        _check_program(_program(archive, path), path)
        damaged = archive.testzip()
    if damaged is not None:
        raise _refusal(path, f"the checksum of {damaged} is wrong (a damaged file); copy it again")
    records = [(type(name.rpartition(".")[2], (Record,), {}), name) for name in sorted(_RECORDS)]
    try:
        with torch.serialization.safe_globals(records):  # type: ignore[arg-type]  # pairs are right
            content = torch.load(path, weights_only=True, map_location="cpu")
    except _LOAD_ERRORS as error:
        reason = str(error).strip().split("\n")[0]
        raise _refusal(
            path, f"torch's restricted loader refuses it ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _refusal(path, "it holds no table of named tensors (expected a state dict)")
    return dict(content)


def _check_file(path: Path, max_file_bytes: int) -> None:
    if not path.is_file():
        raise _refusal(path, "there is no such file; give the path of the downloaded .pt")
    size_bytes = path.stat().st_size
    if size_bytes > max_file_bytes:
        raise _refusal(path, f"it has {size_bytes} bytes (expected at most {max_file_bytes})")
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        raise _refusal(
            path,
            "it is in torch's format from before 1.6, a bare pickle (expected a zip archive); "
            "where you trust it, load it with torch and write it again with torch.save",
        )
    if not start.startswith(_ZIP_MAGIC):
        raise _refusal(path, "it is no zip archive (expected a file of torch.save); download again")


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _refusal(
            path, f"the zip archive is cut off or damaged ({error}); download it again"
        ) from (error)


def _check_entries(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse every entry that torch.save would not have written, before any is read."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    roots = {PurePosixPath(name).parts[0] for name in names if name.strip("/")}
    if len(set(names)) != len(names) or len(roots) != 1:
        raise _refusal(path, f"its entries are not one folder of distinct names (found {roots})")
    for entry in entries:
        fault = _fault_of(entry)
        if fault:
            raise _refusal(path, f"the entry {entry.filename!r} {fault}")
    declared, size_bytes = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > size_bytes:
        raise _refusal(
            path, f"its entries claim {declared} bytes in a file of {size_bytes} (a zip bomb)"
        )


def _fault_of(entry: zipfile.ZipInfo) -> str:
    parts = PurePosixPath(entry.filename).parts
    if entry.filename.startswith("/") or ".." in parts or set(entry.filename) & set("\\:\0"):
        return "points outside the archive (expected a plain relative name)"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link (expected a file)"
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        return (
            f"is compressed, {entry.compress_size} bytes that claim to be {entry.file_size} "
            "(expected it stored as it is, as torch.save does)"
        )
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted (expected it readable)"
    if parts[1:2] == ("code",) or parts[1:] == ("constants.pkl",):
        return "belongs to TorchScript, which is code (expected tensors)"
    return ""


def _program(archive: zipfile.ZipFile, path: Path) -> bytes:
    programs = [
        e for e in archive.infolist() if PurePosixPath(e.filename).parts[1:] == ("data.pkl",)
    ]
    if len(programs) != 1 or programs[0].file_size > MAX_PROGRAM_BYTES:
        sizes = [entry.file_size for entry in programs]
        raise _refusal(
            path, f"it has data.pkl of {sizes} bytes (expected one, of at most {MAX_PROGRAM_BYTES})"
        )
    try:
        return archive.read(programs[0])
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise _refusal(path, f"data.pkl is cut off or damaged ({error}); download it again") from (
            error
        )


def _check_program(program: bytes, path: Path) -> None:
    """List what the pickle would import, without running it, and refuse what is not known."""
    allowed = _STORAGES | _BUILDERS | _RECORDS
    try:
        instructions = [(op.name, arg) for op, arg, _ in pickletools.genops(program)]
    except (ValueError, struct.error, UnicodeError) as error:
        raise _refusal(path, f"data.pkl is no pickle ({error}); download it again") from error
    for name, arg in instructions:
        if name == "GLOBAL" and (wanted := ".".join(str(arg).split(" ", 1))) not in allowed:
            raise _refusal(
                path,
                f"it wants to call {wanted}, which no released checkpoint needs: the file is "
                "hostile, or of another kind; do not load it by other means either",
            )
        if name in _OTHER_IMPORTS or (name == "PROTO" and arg != _PICKLE_PROTOCOL):
            raise _refusal(
                path, f"its pickle has {name} {arg or ''}, which torch.save does not write"
            )


def _refusal(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: {reason}")
