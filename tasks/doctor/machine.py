"""This machine: devices, room on its disks, and the limits that the system sets a process."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from configs.schema import DecodeConfig
from storage.remote import is_remote
from tasks.doctor.finding import Finding, Patient, fault, ok, warning

_GIB: Final = 1024**3
# A catalog of a large lake opens some hundred files at once, beside sockets and the children's.
_FEW_FILES, _FEWEST_FILES = 1024, 256
# A decoding child has about 8 GiB of address space once torch is imported, and takes more.
_CHILD_BYTES: Final = 8 * _GIB
_FEW_SHARED_BYTES: Final = 64 * 1024**2


def check_machine(patient: Patient) -> Iterator[Finding]:
    """Look at devices, disks and limits."""
    yield _devices()
    scratch = patient.scratch or Path(tempfile.gettempdir())
    yield _disk("scratch disk", scratch, patient, fix="export TMPDIR=/a/larger/disk")
    if patient.lake is not None and not is_remote(patient.lake):
        place = _existing(Path(patient.lake).expanduser().absolute())
        yield _disk("lake's disk", place, patient, fix=f"video2lora gc --lake {patient.lake}")
    yield _open_files()
    yield _address_space()
    if Path("/dev/shm").is_dir():
        yield _shared_memory(Path("/dev/shm"))


def _devices() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return ok("devices", f"{len(names)} CUDA: {', '.join(names)}; torch {torch.__version__}")
    if Path("/dev/nvidia0").exists():
        return fault(
            "devices",
            f"an NVIDIA device, but torch {torch.__version__} sees none",
            meaning="everything would run on the CPU",
            fix="pip install torch --index-url https://download.pytorch.org/whl/cu128",
        )
    return ok("devices", f"CPU only; torch {torch.__version__}")


def _disk(name: str, place: Path, patient: Patient, *, fix: str) -> Finding:
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return fault(
            name, f"{place}: {error.strerror}", meaning="nothing can be written there", fix=fix
        )
    found = f"{free / _GIB:.1f} GiB free at {place}"
    if free < patient.min_free_bytes:
        meaning = f"under {patient.min_free_bytes / _GIB:.1f} GiB; a run may stop in the middle"
        return fault(name, found, meaning=meaning, fix=fix)
    wanted = DecodeConfig().scratch_bytes
    if name.startswith("scratch") and free < wanted and is_remote(patient.lake or ""):
        meaning = f"copies of remote videos may take {wanted / _GIB:.0f} GiB (decode.scratch_bytes)"
        return warning(name, found, meaning=meaning, fix=fix)
    return ok(name, found)


def _existing(path: Path) -> Path:
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} open files allowed"
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        return ok("open files", found)
    fix = f"ulimit -n {min(65536, hard) if hard != resource.RLIM_INFINITY else 65536}"
    meaning = "queries open every live table file: they fail with 'Too many open files'"
    if soft < _FEWEST_FILES:
        return fault("open files", found, meaning=meaning, fix=fix)
    return warning("open files", found, meaning=meaning, fix=fix)


def _address_space() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    if not limits:
        return ok("address space", "no limit")
    found = f"limited to {min(limits) / _GIB:.1f} GiB"
    if min(limits) >= _CHILD_BYTES + DecodeConfig().memory_bytes:
        return ok("address space", found)
    return fault(
        "address space",
        found,
        meaning="decoding children need more address space (not memory) to start",
        fix="ulimit -v unlimited",
    )


def _shared_memory(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{free / 1024**2:.0f} MiB free at {place}"
    if free >= _FEW_SHARED_BYTES:
        return ok("shared memory", found)
    return warning(
        "shared memory",
        found,
        meaning="CUDA and NCCL use it; containers get 64 MiB by default",
        fix="docker run --shm-size=1g ...",
    )
