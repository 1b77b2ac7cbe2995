"""docs/reading.md shows queries that are queries."""

import re
from pathlib import Path

from app.events.query.parsing import parse
from app.events.query.printing import print_query

_DOCS = Path(__file__).parents[3] / "docs"


def test_every_query_that_the_page_shows_can_be_asked() -> None:
    page = (_DOCS / "reading.md").read_text().partition("## The language of queries")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    shown = [query for cell in cells for query in re.findall(r"`([^`]+)`", cell)]
    shown += re.findall(r"```\n(.*)\n```", page)

    assert len(shown) > 20
    for query in shown:
        assert parse(print_query(parse(query))) == parse(query)
