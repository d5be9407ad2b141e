"""docs/catalog.md says what storage's schemas and views say."""

from pathlib import Path

from storage.document_schemas import catalog_page


def test_the_catalog_page_is_up_to_date(root: Path) -> None:
    written = (root / "docs" / "catalog.md").read_text(encoding="utf-8")
    assert written == catalog_page(), "run `make docs`"
