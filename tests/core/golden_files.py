"""Reads the golden files that are kept in parts or compressed: no file here is over 500 kB."""

import functools
import lzma
import tempfile
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
_UNPACKED = tempfile.TemporaryDirectory(prefix="video2lora-golden-")


def load_parts(name: str) -> dict[str, Tensor]:
    """Load `golden/<name>-00001-of-0000N.safetensors` and its other parts as one."""
    paths = sorted(GOLDEN.glob(f"{name}-*-of-*.safetensors"))
    assert paths, f"no golden file {name}"
    return {key: tensor for path in paths for key, tensor in load_file(path).items()}


@functools.cache
def released_checkpoint() -> Path:
    """Unpack the authors' tiny checkpoint and return where it is, byte for byte theirs."""
    packed = GOLDEN / "checkpoint_tiny/step-000001.pt.xz"
    path = Path(_UNPACKED.name) / packed.stem
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path
