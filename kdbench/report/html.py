"""The leaderboard as one page that a browser shows by itself: no network, no other file. Floor 6; no torch.

A pure function of the records, as all pages are. Style and script are files of this package and are written into the
page; its content policy lets these two run, by their hashes, and nothing else. Data stand in blocks of JSON that no
name can end, and reach the document as text alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from kdbench.report.outcomes import Outcomes
from kdbench.report.payload import clean, page_data
from kdbench.types import ProfileRecord, RunRecord

_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render_html(
    records: Sequence[RunRecord],
    profiles: Iterable[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
    title: str = "kdbench leaderboard",
) -> str:
    """The whole page; without records, what the models of the profiles cost.

    Args:
        records: of any number of data sets, in any order.
        profiles: costs measured apart from the runs, in any order.
        outcomes: where the answers of the runs are looked up; without it there are no intervals and no confusions.
        names: of the columns wanted, as `columns_for` takes them; None is all of them.
        title: the page's heading.
    """
    data, details = page_data(records, profiles, outcomes, names)
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; script-src {content_hash(script)}; style-src {content_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(clean(title)),
        "policy": html.escape(policy, quote=False),
        "summary": html.escape(data["summary"]),
        "style": style,
        "script": script,
        "data": json_block(data),
        "details": json_block(details),
    }
    # in one pass: what is put in is not looked through again
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def json_block(plain: Any) -> str:
    """JSON for a script element: nothing in it can end the element or be taken for markup."""
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def content_hash(text: str) -> str:
    """As a content security policy names the inline element with this text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _asset(name: str) -> str:
    return files("kdbench.report").joinpath("page", name).read_text(encoding="utf-8")
