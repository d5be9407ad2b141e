"""The file system through which SQL reads a catalog on S3.

A table's file is never changed once it is written, so what was seen of it stays true. DuckDB asks
for a file's size whenever it opens it, and it opens it for every view it is part of: 18 times per
query before the answer was kept.
"""

from typing import Any

from s3fs import S3FileSystem


class LiveFiles(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3 with the sizes of Parquet files kept in memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what S3FileSystem takes."""
        super().__init__(*args, **kwargs)
        self._seen: dict[str, Any] = {}

    async def _info(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if not path.endswith(".parquet"):
            return await super()._info(path, *args, **kwargs)
        if path not in self._seen:
            self._seen[path] = await super()._info(path, *args, **kwargs)
        return self._seen[path]
