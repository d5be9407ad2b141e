"""A self-contained HTML page: sections of text, tables, pictures and thumbnails.

No script, nothing fetched, readable in light and dark and on paper. All text is escaped; only SVG
that our own code has drawn goes in as it is.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment

_NUMBER = re.compile(r"[-+]?[.\d]|-?$")  # a dash stands where there is none
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --faint: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #16181c; --faint: #9aa0a6; --line: #3a3d42; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { max-width: 46rem; } .lead { color: var(--faint); margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92em; }
caption { text-align: left; color: var(--faint); padding: .3rem 0; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line);
  text-align: right; vertical-align: top; }
th:first-child, td:first-child, .text { text-align: left; } td { overflow-wrap: break-word; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; background: #fff;
  border-radius: 6px; padding: .4rem; }
figcaption { color: var(--faint); font-size: .92em; max-width: 46rem; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; }
.strip figure { margin: 0; width: 15rem; } .strip img { width: 100%; border-radius: 4px;
  image-rendering: auto; }
@media print { body { max-width: none; padding: 0; } table { font-size: .72em; }
  section { break-inside: avoid; }
  :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if lead %}<p class="lead">{{ lead }}</p>{% endif %}
{% for section in sections %}<section>
<h2>{{ section.heading }}</h2>
{% for text in section.paragraphs %}<p>{{ text }}</p>
{% endfor %}{% for table in section.tables %}<div class="wide"><table>
{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for cell in table.header %}
<th scope="col" class="{{ table.kinds[loop.index0] }}">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}
<td class="{{ table.kinds[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}{% for picture in section.pictures %}<figure role="img" aria-label="{{ picture.text }}">
{{ picture.svg|safe }}
<figcaption>{{ picture.text }}</figcaption></figure>
{% endfor %}{% if section.thumbnails %}<div class="strip">
{% for image in section.thumbnails %}<figure><img alt="{{ image.text }}" src="{{ image.source }}">
<figcaption>{{ image.text }}</figcaption></figure>
{% endfor %}</div>{% endif %}</section>
{% endfor %}</body>
</html>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of texts; numbers are formatted by whoever knows their unit."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def kinds(self) -> list[str]:
        """A class for each column: texts stand left, numbers right."""
        columns = [[row[k] for row in self.rows] for k in range(len(self.header))]
        is_text = [any(cell and not _NUMBER.match(cell) for cell in column) for column in columns]
        return ["text" if flag else "number" for flag in is_text]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An SVG drawn by `tasks.pictures`, and the sentence that says what it shows."""

    svg: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A small PNG or JPEG and what is said under it."""

    image: bytes
    text: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        kind = "png" if self.image.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading with what stands under it, in this order."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    thumbnails: Sequence[Thumbnail] = ()


def html_page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """Return the whole document."""
    environment = Environment(autoescape=True)
    return environment.from_string(_TEMPLATE).render(title=title, lead=lead, sections=sections)
