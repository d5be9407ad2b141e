"""A report is one file that shows what it was given, whatever the texts hold."""

import re
from xml.etree import ElementTree

from tasks.html_page import Picture, Section, Table, Thumbnail, html_page
from tasks.pictures import drawing, svg_of

HOSTILE = '<script>alert(1)</script> & "quotes"'


def test_texts_cannot_become_markup() -> None:
    table = Table(header=(HOSTILE,), rows=((HOSTILE,),), caption=HOSTILE)
    thumbnail = Thumbnail(image=b"\x89PNG", text=HOSTILE)
    picture = Picture(svg="<svg></svg>", text=HOSTILE)
    section = Section(
        heading=HOSTILE,
        paragraphs=(HOSTILE,),
        tables=(table,),
        pictures=(picture,),
        thumbnails=(thumbnail,),
    )
    page = html_page(HOSTILE, [section], lead=HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 12  # 2 of the title, lead, heading, paragraph, 3, 2, 2


def test_nothing_is_fetched() -> None:
    with drawing() as (figure, (axes,)):
        axes.plot([1, 2], label="a")
        axes.legend()
    section = Section(heading="h", pictures=(Picture(svg=svg_of(figure), text="a line"),))
    page = html_page("t", [section])
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert "url(http" not in page


def test_a_picture_is_whole_svg_with_readable_text_and_always_the_same_bytes() -> None:
    def draw() -> str:
        with drawing(num_axes=2) as (figure, axes):
            axes[0].set_title("left picture")
            axes[1].bar(["x"], [1])
        return svg_of(figure)

    first = draw()
    assert first == draw()
    ElementTree.fromstring(first)
    assert "left picture" in first
