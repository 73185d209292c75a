"""``POST /v1/webhooks/git``: deployments as GitHub and GitLab tell them (IN-13).

Here belongs checking the signature and picking an event out of a payload. Ids are made from what was deployed, which
GitHub's signature covers, and from the agent in the address, so that one repository can deploy several and a delivery
that comes twice changes nothing. The address is not signed: somebody who recorded a delivery could repeat it for another
agent, and GitLab's token is no signature at all. So let the host deliver over TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError

from metamon_assets.traces.events import Event
from metamon_assets.web.auth import client_address
from metamon_assets.web.envelope import read_body
from metamon_assets.web.events import LONGEST_ID, Accepted, NewEvent, Text, parse_json, store
from metamon_assets.web.problems import documented

if TYPE_CHECKING:
    from metamon_assets.config import Settings

SECRET_VARIABLE = "METAMON_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
MOST_BYTES = 5 * 2**20  # deployments have some kilobytes, pushes of many commits more
Payload = Mapping[str, Any]
router = APIRouter(prefix="/v1/webhooks", tags=["events"])


@router.post(
    "/git",
    summary="Take a webhook of GitHub or GitLab",
    openapi_extra={
        "security": [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    },
    responses={
        204: {"description": "Taken note of; this kind of delivery is no deployment"},
        **documented(400, 401, 408, 413, 422, 429, 503),
    },
    response_model=Accepted,
)
async def git(
    request: Request,
    agent: Annotated[Text | None, Query(description="Agent that this repository deploys; none: the event concerns all.")] = None,
) -> Accepted | Response:
    """Signed by the host with the secret that metamon.yaml names (`web: {webhook_secret: env:…}`) or METAMON_WEBHOOK_SECRET holds.

    GitHub: successful deployments, published releases, pushes to the default branch. GitLab: successful deployments.
    """
    secret = webhook_secret(request.app.state.settings)
    if secret is None:
        raise HTTPException(503, f"Webhooks are off: name their secret in metamon.yaml (web.webhook_secret), or set {SECRET_VARIABLE}.")
    body = await read_body(request, MOST_BYTES)  # nobody has shown yet who they are
    if not signed(request.headers, body, secret):
        request.app.state.access.failed(client_address(request))
        raise HTTPException(401, "The signature (GitHub) or the token (GitLab) is not that of this server's secret.")
    payload = parse_json(_json_of(request.headers.get("content-type", ""), body))
    read = _KINDS.get(request.headers.get("x-github-event") or request.headers.get("x-gitlab-event") or "")
    event = None if read is None or not isinstance(payload, dict) else _read(read, payload, agent)
    if event is None:
        return Response(status_code=204)
    entry = await run_in_threadpool(store, request, [event])
    return Accepted.of(entry)


def webhook_secret(settings: Settings) -> str | None:
    """The secret of the configuration, else of the environment; None when there is none."""
    named = settings.web.webhook_secret
    return named.value().get_secret_value() if named is not None and named.available else os.environ.get(SECRET_VARIABLE) or None


def signed(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether the body comes from somebody who knows the secret."""
    if "x-hub-signature-256" in headers:
        expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected.encode(), headers["x-hub-signature-256"].encode("utf-8", "replace"))
    return hmac.compare_digest(secret.encode(), headers.get("x-gitlab-token", "").encode("utf-8", "replace"))


def github_deployment(payload: Payload) -> dict[str, Any] | None:
    """A deployment that succeeded."""
    status, deployment = payload["deployment_status"], payload["deployment"]
    if status["state"] != "success":
        return None
    return {
        "id": f"github:deployment_status:{status['id']}",
        "version": deployment["ref"],
        "commit": deployment["sha"],
        "url": status.get("environment_url") or status.get("target_url") or status.get("log_url") or payload["repository"]["html_url"],
        "actor": _login(deployment.get("creator")) or _login(payload.get("sender")),
        "time": status["created_at"],
        "metadata": {"environment": deployment.get("environment")},
    }


def github_release(payload: Payload) -> dict[str, Any] | None:
    """A release that was published."""
    release = payload["release"]
    if payload["action"] != "published" or release.get("draft"):
        return None
    return {
        "id": f"github:release:{release['id']}",
        "version": release["tag_name"],
        "url": release["html_url"],
        "actor": _login(release.get("author")) or _login(payload.get("sender")),
        "time": release["published_at"],
        "metadata": {"prerelease": bool(release.get("prerelease"))},
    }


def github_push(payload: Payload) -> dict[str, Any] | None:
    """A push to the default branch, for repositories that deploy by it."""
    repository, head = payload["repository"], payload.get("head_commit")
    if payload["ref"] != f"refs/heads/{repository['default_branch']}" or payload.get("deleted") or not head:
        return None
    pushed = repository.get("pushed_at")
    return {
        "id": f"github:push:{payload['after']}",
        "commit": payload["after"],
        "url": head.get("url") or payload.get("compare"),
        "actor": (payload.get("pusher") or {}).get("name") or _login(payload.get("sender")),
        "time": datetime.fromtimestamp(pushed, UTC) if isinstance(pushed, int) else head["timestamp"],
        "metadata": {"branch": repository["default_branch"]},
    }


def gitlab_deployment(payload: Payload) -> dict[str, Any] | None:
    """A deployment that succeeded."""
    if payload["status"] != "success":
        return None
    return {
        "id": f"gitlab:deployment:{payload['project']['id']}:{payload['deployment_id']}",
        "version": payload.get("ref") or payload["short_sha"],
        "commit": payload["short_sha"],
        "url": payload.get("deployable_url") or payload.get("commit_url"),
        "actor": (payload.get("user") or {}).get("username"),
        "time": _gitlab_time(payload["status_changed_at"]),
        "metadata": {"environment": payload.get("environment")},
    }


_KINDS: dict[str, Callable[[Payload], dict[str, Any] | None]] = {
    "deployment_status": github_deployment,
    "release": github_release,
    "push": github_push,
    "Deployment Hook": gitlab_deployment,
}


def _read(read: Callable[[Payload], dict[str, Any] | None], payload: Payload, agent: str | None) -> Event | None:
    """The event of a payload. Raises HTTPException when the payload is not what its kind should be."""
    try:
        said = read(payload)
        if said is None:
            return None
        repository = payload.get("repository") or payload["project"]
        name = repository.get("full_name") or repository["path_with_namespace"]
        metadata = {"repository": name, **said.pop("metadata")}
        said["id"] = said["id"] if agent is None else f"{said['id']}:{agent}"[:LONGEST_ID]
        return _EVENT.validate_python({"kind": "deployment", "agent": agent, "project": "default", "metadata": metadata, **said}).event()
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, OSError) as error:
        where = f"{error.errors()[0]['loc']}" if isinstance(error, ValidationError) else type(error).__name__
        raise HTTPException(422, f"The payload is not what this kind of webhook carries ({where[:100]}).") from None


_EVENT: TypeAdapter[NewEvent] = TypeAdapter(NewEvent)


def _json_of(content_type: str, body: bytes) -> bytes:
    """The JSON of a delivery; GitHub's default is to send it as a field of a form."""
    if not content_type.startswith("application/x-www-form-urlencoded"):
        return body
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=10)).get("payload", "").encode()
    except ValueError:
        raise HTTPException(400, "The form has more fields than one of a Git host.") from None


def _login(user: Payload | None) -> str | None:
    return user.get("login") if user else None


def _gitlab_time(text: str) -> datetime:
    """GitLab writes 2026-08-22 12:00:00 +0200, or ISO 8601."""
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return datetime.fromisoformat(text)
