"""The front page: what runs here, for somebody who opened the address in a browser. No script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from metamon_assets.web.health import FEED_SILENT_SECONDS, PUBLIC, readiness

if TYPE_CHECKING:
    from jinja2 import Template

router = APIRouter(tags=["pages"])


@router.get("/", summary="A page that says what runs here", response_class=HTMLResponse, openapi_extra=PUBLIC)
def front_page(request: Request) -> HTMLResponse:
    """For people. It shows nothing of the data, since it asks for no token."""
    settings = request.app.state.settings
    state = readiness(request)
    page = _template().render(
        version=version("metamon"),
        state=state,
        feed=None if state.feed_age_seconds is None else ago(state.feed_age_seconds),
        address=settings.web.public_url or str(request.base_url).rstrip("/"),
        feed_silent=(state.feed_age_seconds or 0) > FEED_SILENT_SECONDS,
        dagster=settings.ui_url or f"http://127.0.0.1:{settings.ui_port}",
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy(page)})


def policy(page: str) -> str:
    """A content security policy that lets in the style sheets which are in the page, and nothing else."""
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" for style in styles)
    return f"default-src 'none'; style-src {allowed}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def ago(seconds: float) -> str:
    """A span of time in words."""
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        number = int(seconds // unit.total_seconds())
        if number:
            return f"{number} {name}{'s' * (number > 1)} ago"
    return "less than a minute ago"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("metamon_assets.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("index.html")
