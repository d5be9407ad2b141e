"""Has memory run out, or did a damaged file only ask for too much of it?

FFmpeg answers both with the same error. Under a limit on the address space (RLIMIT_AS, which a
decoding child sets for itself) the two differ in how much of it is still free.
"""

import resource
from pathlib import Path

# More than a decoder honestly asks for at once: the largest frame in 16 bits has 214 MB.
LARGEST_REQUEST_BYTES = 256 * 1024**2


def is_exhausted() -> bool:
    """Say whether the address space left under the limit is too small for a large frame.

    False where there is no limit.
    """
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes == resource.RLIM_INFINITY:
        return False
    return limit_bytes - address_space_bytes() < LARGEST_REQUEST_BYTES


def address_space_bytes() -> int:
    """Return the address space that this process has; Linux only.

    Raises:
        OSError: the system has no /proc.
    """
    num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return num_pages * resource.getpagesize()
