"""The report as one page: nothing but itself, with pictures, for screens light and dark, phones and paper.

The template escapes whatever it shows, and a policy in the page forbids scripts and requests, so a hostile name in a
trace can neither run nor call home. Pictures are SVG inside the page.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metamon_assets import charts, words
from metamon_assets.reports.terminal import facts, next_steps, period, words_in

if TYPE_CHECKING:
    from jinja2 import Template

    from metamon_assets.reports.findings import Finding
    from metamon_assets.reports.report import Report

TEMPLATE = Path(__file__).with_name("templates") / "report.html"
SEVERITIES = {"serious": "Serious", "notice": "Worth acting on"}


def page(report: Report) -> str:
    """The whole page, UTF-8 text."""
    return _template().render(
        report=report,
        period=period(report),
        facts=list(facts(report)),
        tiles=_tiles(report),
        next_steps=next_steps(report),
        severities=SEVERITIES,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize)
    environment.globals.update(dollars=words.dollars, picture=_picture, anchor=_anchor, link=_link, words_in=words_in)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _finalize(value: Any) -> Any:
    """Every text is cleaned before it is escaped; what is markup of ours stays."""
    return words.clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _picture(specification: dict[str, Any], section: str, number: int) -> Any:
    from markupsafe import Markup

    return Markup(charts.as_svg(specification, prefix=f"{section}-{number}"))  # noqa: S704 - Vega's own output, texts in it escaped


def _anchor(finding: Finding) -> str:
    """An id for a finding's heading, whatever names its key is made of."""
    import hashlib

    return f"f-{hashlib.sha256(finding.key.encode('utf-8', 'replace')).hexdigest()[:12]}"


def _link(url: str | None) -> str | None:
    """The address, if it is one that a browser opens as a page."""
    return url if url is not None and url.startswith(("https://", "http://")) else None


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The figures at the top: what, how much, and what it rests on."""
    found = report.facts
    if not found.traces:
        return []
    ended = found.succeeded + found.failed
    return [
        ("Traces", f"{found.traces:,}", words.many(found.days, "day")),
        ("Failed", words.percent(found.failed / ended) if ended else "unknown", _of_ended(found.failed, ended, found.untold)),
        ("Cost", words.dollars(found.cost), _in_a_month(report)),
        ("Priced", words.percent(found.priced / found.traces), f"{found.traces - found.priced:,} unpriced"),
    ]


def _of_ended(failed: int, ended: int, untold: int) -> str:
    return f"{failed:,} of {ended:,} that ended" if ended or not untold else "the traces do not tell"


def _in_a_month(report: Report) -> str:
    money = next((finding.money_per_month for _, finding in report.findings if finding.key == "cost.total"), None)
    return "no estimate of a month" if money is None else f"{words.dollars(money)} in 30 days"
