"""A secret appears in no log, row, plan, file or message; a URI that carries one is refused."""

import io
import logging
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.schema import InternalizeConfig
from flows.api import open_lake as open_for_use
from flows.run import run_internalize
from storage.errors import CredentialsError, reason_of
from storage.lake import Lake, open_lake
from storage.manifest import list_sources
from storage.remote import file_system
from storage.schemas import TABLES
from tests.s3.servers import ACCESS_KEY, BUCKET, SECRET_KEY

OURS = ("flows", "tasks", "storage", "video2lora_core", "configs")
SIGNED = "https://h/v.mp4?X-Amz-Credential=AKIASECRET&X-Amz-Signature=SECRET"


def everything_in(lake: Lake, root: str, files: Any) -> str:
    """Every row of every table, every plan's rows, and every other file below the root as text."""
    parts = [str(lake.table(table).to_pylist()) for table in TABLES]
    for path in files.find(root):
        data = files.cat_file(path)
        if path.endswith(".parquet"):
            parts.append(str(pq.read_table(io.BytesIO(data)).to_pylist()))
        parts.append(data.decode("latin-1"))
    return "\n".join(parts)


def test_a_run_leaves_its_secret_nowhere(
    run: Callable[..., Any],
    root: str,
    lake_of: Callable[[], Lake],
    direct: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in OURS:
        caplog.set_level(logging.DEBUG, logger=name)
    run()
    shown = capfd.readouterr()
    lake = lake_of()
    everything = everything_in(lake, f"{root}/lake", file_system(root, direct))
    assert "bad.mp4" in everything, "rows were looked at"
    assert "published" in everything
    for text in (caplog.text, shown.out, shown.err, everything):
        assert SECRET_KEY not in text
        assert ACCESS_KEY not in text


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIASECRET:SECRET@{BUCKET}/videos",
        f"s3://AKIAX:SEC/RET@{BUCKET}/videos",
        f"s3://SECRET@{BUCKET}/videos/v.mp4",
        SIGNED,
        "https://h/v.mp4#X-Amz-Signature=SECRET",
    ],
)
def test_a_uri_with_credentials_is_refused_wherever_one_enters(
    uri: str, run: Callable[..., Any], root: str, model: str, direct: Any
) -> None:
    open_lake(f"{root}/lake", create=True)
    files = file_system(root, direct)
    files.pipe_file(f"{root}/m.jsonl", f'{{"uri": "{uri}"}}\n'.encode())
    config = InternalizeConfig(corpus="x", lake="x", model=model)
    entries: list[Callable[[], Any]] = [
        lambda: open_lake(uri),
        lambda: open_lake(uri, create=True),
        lambda: open_for_use(uri),
        lambda: list(list_sources(uri)),
        lambda: list(list_sources(f"{root}/m.jsonl")),
        lambda: open_lake(f"{root}/lake").resolve_video(uri),
        lambda: run_internalize(config.model_copy(update={"corpus": uri})),
        lambda: run_internalize(config.model_copy(update={"lake": uri})),
    ]
    for enter in entries:
        with pytest.raises(CredentialsError) as refused:
            enter()
        assert "SEC" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Client error with status 403 Forbidden: <?xml version='1.0'?><Error>"
            "<Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>"
            "<AWSAccessKeyId>AKIAIOSFODNN7EXAMPLE</AWSAccessKeyId>"
            "<StringToSign>SECRET</StringToSign></Error>",
            "Client error with status 403 Forbidden: SignatureDoesNotMatch: It does not match.",
        ),
        ("GET https://h/k?X-Amz-Signature=SECRET&x=1 failed", "GET https://h/k failed"),
        ('endpoint URL: "http://me:SECRET@host:1/b/k"', 'endpoint URL: "http://host:1/b/k"'),
        ("the key AKIAIOSFODNN7EXAMPLE is unknown", "the key AKIA... is unknown"),
        ("Credential=SECRET/1/s3, Signature=SECRET", "Credential=..., Signature=..."),
    ],
)
def test_what_a_library_says_is_passed_on_without_its_secrets(said: str, shown: str) -> None:
    assert reason_of(OSError(said)) == shown
