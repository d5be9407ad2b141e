"""What can go wrong with a lake. Every message reads `where: what is wrong; what to do`.

StorageError
|-- LakeError               the root: missing, not a lake, unsafe store, credentials in its URI
|-- ObjectError             a file of the lake could not be read or written
|   |-- ObjectMissingError      it is not there
|   `-- AdapterIntegrityError   its bytes are not what its name says
|-- CatalogError            a table could not be read or written
|   |-- RowError                a row does not fit its table
|   |-- UnitOrderError          a unit was committed out of order
|   |-- VideoUnknownError       no video of the catalog fits what was asked
|   `-- CatalogQueryError       a user's SQL was refused or failed
`-- ManifestError           a corpus could not be listed
    `-- CredentialsError        a URI carries a secret
"""

import re
from typing import Final

# Colours and tree marks that delta-rs puts into its messages.
_DECORATION: Final = re.compile(r"\x1b\[[0-9;]*m|\u21b3")
_LONGEST: Final = 300
# What libraries repeat of a request or its answer: who asked, and how it was signed.
_SECRETS: Final = (
    # An S3 error document: its code and message say it, the rest echoes the request.
    (
        re.compile(r"(?s)<\?xml.*?<Code>(.*?)</Code>.*?<Message>(.*?)</Message>.*?</Error>"),
        r"\1: \2",
    ),
    (
        re.compile(r"(?s)<Error>.*?<Code>(.*?)</Code>.*?<Message>(.*?)</Message>.*?</Error>"),
        r"\1: \2",
    ),
    (re.compile(r"(\w+://)[^\s/@\"']*:[^\s@\"']*@"), r"\1"),
    (re.compile(r"(\w+://[^\s?\"']+)\?[^\s\"')]*"), r"\1"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), r"\1..."),
    (re.compile(r"(?i)\b(credential|signature|x-amz-[a-z-]+)=[^\s,&]+"), r"\1=..."),
)


def reason_of(error: BaseException) -> str:
    """Return what a library's error says, in one line of bearable length, without any secret."""
    words = without_secrets(_DECORATION.sub(" ", str(error))).split()
    return " ".join(words)[:_LONGEST] or type(error).__name__


def without_secrets(text: str) -> str:
    """Return a text without key ids, signatures and the signed part of URLs."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class StorageError(Exception):
    """Base of every error that storage raises on purpose."""


class LakeError(StorageError):
    """The lake's root cannot be used."""


class ObjectError(StorageError):
    """A file of the lake cannot be read or written."""


class ObjectMissingError(ObjectError):
    """A file that the lake should hold is not there."""


class AdapterIntegrityError(ObjectError):
    """A file's bytes do not match the sha256 it is named by."""


class CatalogError(StorageError):
    """A catalog table cannot be read or written."""


class RowError(CatalogError):
    """A row does not fit the schema of its table."""


class UnitOrderError(CatalogError):
    """A unit was committed before its elders, or its rows contradict what is committed."""


class VideoUnknownError(CatalogError):
    """No video of the catalog, or more than one, fits what was asked for."""


class CatalogQueryError(CatalogError):
    """A user's SQL was refused or failed."""


class ManifestError(StorageError):
    """A corpus cannot be listed."""


class CredentialsError(ManifestError):
    """A URI carries credentials; it is refused and its secret is repeated nowhere."""
