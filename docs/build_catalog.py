"""Write docs/catalog.md, the description of every table, from storage/schemas.py: `make docs`."""

from pathlib import Path

from storage.schemas import SCHEMA_VERSION, TABLES, table_schema

PAGE = Path(__file__).with_name("catalog.md")
HEAD = f"""# Catalog

<!-- Made from storage/schemas.py by `make docs`; edit that file. -->

The tables of a lake, schema version {SCHEMA_VERSION}. Each is a Delta table under
`ROOT/catalog/<table>/`; in SQL the same names are views of its live rows
([architecture.md](architecture.md#the-lake)). Facts are written once; state is the last row, and
views take it. The words are those of the [glossary](glossary.md).
"""


def cell(text: str) -> str:
    """Escape what would end a table's cell."""
    return text.replace("|", "\\|")


def section(table: str) -> str:
    """Describe one table in Markdown."""
    schema = table_schema(table)
    lines = [
        f"## {table}",
        "",
        schema.metadata[b"description"].decode(),
        "",
        "| column | type | unit | null | meaning |",
        "|---|---|---|---|---|",
    ]
    for field in schema:
        unit = field.metadata[b"unit"].decode()
        meaning = field.metadata[b"description"].decode()
        null = "may be" if field.nullable else ""
        lines.append(f"| `{field.name}` | {field.type} | {unit} | {null} | {cell(meaning)} |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([HEAD.strip(), *(section(table) for table in TABLES)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
