"""docs/catalog.md says what storage/schemas.py says."""

import importlib.util
from pathlib import Path


def test_the_catalog_page_is_up_to_date(root: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "build_catalog", root / "docs" / "build_catalog.py"
    )
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    assert builder.PAGE.read_text(encoding="utf-8") == builder.page(), "run `make docs`"
