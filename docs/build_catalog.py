"""Write docs/catalog.md, the description of every view and table, from storage/: `make docs`."""

from pathlib import Path

from storage.schemas import SCHEMA_VERSION, TABLES, table_schema
from storage.views import describe_views

PAGE = Path(__file__).with_name("catalog.md")
HEAD = f"""# Catalog

<!-- Made from storage/schemas.py and storage/views.sql by `make docs`; edit those files. -->

What `video2lora sql` and `catalog.duckdb` can be asked, schema version {SCHEMA_VERSION}.
The views choose the rows that count; the tables underneath hold every row as it was written,
each as a Delta table under `ROOT/catalog/<table>/` ([architecture.md](architecture.md#the-lake)).
Times are microseconds. The words are those of the [glossary](glossary.md).
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD.strip(), _views(), *(_table(table) for table in TABLES)]
    return "\n\n".join(parts) + "\n"


def _views() -> str:
    lines = ["## Views", "", "| view | rows | columns |", "|---|---|---|"]
    for name, comment, columns in describe_views():
        shown = _own_columns(name, [column for column, _ in columns])
        lines.append(f"| `{name}` | {_cell(comment)} | {shown} |")
    return "\n".join([*lines, "", "## Tables"])


def _own_columns(view: str, columns: list[str]) -> str:
    for table in (view, view.removesuffix("_latest"), view.removeprefix("open_")):
        if table in TABLES and columns == table_schema(table).names:
            return f"those of [{table}](#{table})"
    return " ".join(f"`{column}`" for column in columns)


def _table(table: str) -> str:
    schema = table_schema(table)
    lines = [
        f"### {table}",
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
        lines.append(f"| `{field.name}` | {field.type} | {unit} | {null} | {_cell(meaning)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
