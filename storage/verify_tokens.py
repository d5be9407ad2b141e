"""Are kept visual tokens what their names say? Each file is read and its sha256 compared.

A fault here costs nobody an answer: a run that meets such a file decodes the video anew.
"""

from typing import Final

import numpy as np

from storage.adapter_store import read_checked
from storage.errors import AdapterIntegrityError, ObjectError, ObjectMissingError
from storage.faults import Checked
from storage.garbage import Listing
from storage.object_store import ObjectStore
from storage.token_store import FOLDER, TokenFile

_FIX: Final = "delete the file: a run that needs it decodes the segment again"


def check_tokens(
    objects: ObjectStore,
    listing: Listing,
    checked: Checked,
    *,
    video_id: str | None = None,
    num_sampled: int | None = None,
    is_quick: bool = False,
    seed: int = 0,
) -> None:
    """Count the files of visual tokens and, unless `is_quick`, read them or a sample of them."""
    files = [
        file
        for stored in listing.files(FOLDER)
        if (file := TokenFile.parse(stored.name)) and video_id in (None, file.video_id)
    ]
    if not files:
        return
    checked.counts["visual_tokens"] = len(files)
    if num_sampled is not None and num_sampled < len(files):
        drawn = np.random.default_rng(seed).choice(len(files), num_sampled, replace=False)
        files = [files[index] for index in sorted(drawn)]
    for file in () if is_quick else files:
        _check_file(objects, file, checked)


def _check_file(objects: ObjectStore, file: TokenFile, checked: Checked) -> None:
    try:
        read_checked(objects, file.name, file.sha256)
    except ObjectMissingError:
        return  # it went in the meantime, as it may
    except AdapterIntegrityError as error:
        checked.add("visual_tokens_changed", objects.uri(file.name), str(error), _FIX)
    except ObjectError as error:
        fix = "check the store and its rights"
        checked.add("visual_tokens_changed", objects.uri(file.name), str(error), fix)
