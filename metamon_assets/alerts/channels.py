"""Sending one message to one channel, through Apprise, which knows the services (NOT-2).

Here belongs what a service is told beside the text: keys by which it knows the same incident again, severities, links, how long it may
take. The address of a channel is read from the environment at the time of sending and appears nowhere else: what Apprise says of a
failure is freed of every part of it.

- PagerDuty: one alert an incident (its key is the incident's address), resolved by the message that resolves the incident.
- Mail: all messages of an incident refer to one id, so mail programs that go by References show them as one conversation. Apprise makes
  the Message-ID itself, so a mail that is sent twice has two; X-Metamon-Key is the same. Pictures go as parts of the mail.
- Webhook: JSON with title, message, type, and Metamon's own event, severity, dedup_key, incident_id, group and link.
- Slack: plain text, in which nothing is obeyed; Slack knows no keys.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from metamon_assets.errors import MetamonError
from metamon_assets.words import clean

if TYPE_CHECKING:
    from metamon_assets.config.shape import Channel

TIMEOUT_SECONDS = 15
REASON_LIMIT = 500
SUMMARY_LIMIT = 1_024  # of PagerDuty
_PICTURE = re.compile(r'<img src="data:image/png;base64,(?P<data>[A-Za-z0-9+/=]+)"(?P<rest>[^>]*)>')
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+|(?<=url: )\S+", re.IGNORECASE)
_OPTION_WORDS = {"yes", "no", "true", "false", "http", "https", "starttls", "ssl", "insecure"}
_TOLD = ("Socket Exception", "Response Details")  # of what Apprise says at level debug; the rest is the message itself


class DeliveryError(MetamonError):
    """A channel did not take a message; the text says why, without the address."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. ``key``: the same for the same message; ``link``: address of the incident, None for digests and tests."""

    subject: str
    text: str
    html: str | None
    event: str
    severity: str
    key: str
    group: str
    incident_id: int | None = None
    link: str | None = None


def send(channel: Channel, message: Message) -> None:
    """Hand a message to the service of a channel. Raises DeliveryError with the reason when it was not taken."""
    import apprise

    try:
        address = channel.url.value().get_secret_value()
    except MetamonError as error:
        raise DeliveryError(str(error)) from None
    with _what_apprise_says() as said:
        try:
            asset = apprise.AppriseAsset(app_id="Metamon", app_desc="Metamon", image_url_mask=None, async_mode=False, service_timeout=0)
            service = apprise.Apprise(asset=asset)
            found = _arguments(address, message)
            plugin = apprise.Apprise.instantiate(found, asset=asset)
            if plugin is None:
                raise DeliveryError("The address of the channel is not complete: see docs/alerts.md for what it has to contain.")
            taken = service.add(plugin) and service.notify(**_content(str(found["schema"]), channel.type, message))
        except DeliveryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a service's code does, this message has failed and others must go on
            said.append(f"{type(error).__name__}: {error}")
            taken = False
    if not taken:
        raise DeliveryError(_without_secrets("; ".join(said) or "the service did not take it, and Apprise does not say why", address))


def _arguments(address: str, message: Message) -> dict[str, Any]:
    """What Apprise makes of the address, with what the service is to know of the message."""
    from apprise.plugins import url_to_dict

    found: dict[str, Any] | None = url_to_dict(_as_apprise(address), secure_logging=True)
    if not found:
        raise DeliveryError(
            "Apprise does not know such an address: see docs/alerts.md for those of mail, Slack, PagerDuty and webhooks, and put one into"
            " the environment variable that the channel names."
        )
    found.setdefault("cto", TIMEOUT_SECONDS)
    found.setdefault("rto", TIMEOUT_SECONDS)
    _tell_service(found, message)
    return found


def _as_apprise(address: str) -> str:
    """A plain https:// address as Apprise writes those of JSON webhooks; its own parameters are kept as such."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.hostname in ("hooks.slack.com", "hooks.slack-gov.com"):
        return address
    query = urlencode([(f"-{name}", value) for name, value in parse_qsl(parts.query, keep_blank_values=True)])
    return parts._replace(scheme="jsons" if parts.scheme == "https" else "json", query=query).geturl()


def _tell_service(found: dict[str, Any], message: Message) -> None:
    """What is not text, under the names that the services' constructors have in Apprise."""
    schema = str(found["schema"])
    if schema == "pagerduty":
        found.update(
            dedup=message.link or message.key,
            action="resolve" if message.event == "resolved" else "trigger",
            severity=message.severity,
            group=message.group,
            include_image=False,
            details={"text": message.text, "event": message.event, **(found.get("details") or {})},
        )
        found.setdefault("click", message.link)
        found["source"] = found.get("source") or "Metamon"
        found["component"] = found.get("component") or message.group
    elif schema.startswith(("json", "form", "xml")):
        known: dict[str, Any] = {"dedup_key": message.key, "event": message.event, "severity": message.severity, "group": message.group}
        known |= {"incident_id": message.incident_id, "link": message.link}
        found["payload"] = {**known, **(found.get("payload") or {})}
    elif schema.startswith("mailto"):
        found["headers"] = {**(found.get("headers") or {}), **_headers(message)}
        found["inline"] = True
    elif schema == "slack":
        found["include_image"] = False


def _headers(message: Message) -> dict[str, str]:
    """Of a mail: one line each, since header values come from keys of ours."""
    headers = {"X-Metamon-Key": message.key, "X-Metamon-Event": message.event, "X-Metamon-Severity": message.severity}
    if message.link is not None:
        thread = f"<incident-{message.incident_id}@{urlsplit(message.link).hostname or 'metamon'}>"
        headers |= {"References": thread, "In-Reply-To": thread}
    return headers


def _content(schema: str, kind_of_channel: str, message: Message) -> dict[str, Any]:
    """The arguments of Apprise's notify: HTML for mails, else text."""
    import apprise

    kinds = {"critical": apprise.NotifyType.FAILURE, "warning": apprise.NotifyType.WARNING, "info": apprise.NotifyType.INFO}
    kind = apprise.NotifyType.SUCCESS if message.event == "resolved" else kinds[message.severity]
    if schema == "pagerduty":  # its summary is one short text; the rest is in the details
        return {"body": message.subject[:SUMMARY_LIMIT], "notify_type": kind, "body_format": apprise.NotifyFormat.TEXT}
    if message.html is None or kind_of_channel != "email":
        return {"title": message.subject, "body": message.text, "notify_type": kind, "body_format": apprise.NotifyFormat.TEXT}
    # Apprise puts pictures into mails that it sends by SMTP itself; services with an interface of their own would append them.
    html, pictures = _pictures_apart(message.html) if schema.startswith("mailto") else (_PICTURE.sub("", message.html), [])
    content = {"title": message.subject, "body": html, "notify_type": kind, "body_format": apprise.NotifyFormat.HTML}
    return content | ({"attach": _attachments(pictures)} if pictures else {})


def _pictures_apart(html: str) -> tuple[str, list[bytes]]:
    """Pictures in data: addresses as parts of their own, since mail programs show only those."""
    pictures: list[bytes] = []

    def refer(match: re.Match[str]) -> str:
        pictures.append(base64.b64decode(match["data"]))
        return f'<img src="cid:picture-{len(pictures)}.png"{match["rest"]}>'

    return _PICTURE.sub(refer, html), pictures


def _attachments(pictures: list[bytes]) -> Any:
    import apprise
    from apprise.attachment.memory import AttachMemory

    attachments = apprise.AppriseAttachment()
    for number, picture in enumerate(pictures, start=1):
        attachments.add(AttachMemory(content=picture, name=f"picture-{number}.png", mimetype="image/png"))
    return attachments


# --- what went wrong ---------------------------------------------------------------------------------------------


class _Lines(logging.Handler):
    """Keeps what Apprise says in this thread; its own LogCapture would mix in what it says in others."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep warnings, and the causes that stand at level debug."""
        text = record.getMessage()
        if record.thread == self._thread and (record.levelno >= logging.WARNING or text.startswith(_TOLD)):
            self.said.append(text)


@contextmanager
def _what_apprise_says() -> Iterator[list[str]]:
    """Collects it, and keeps it from the log, since its lines may hold addresses and messages."""
    logger = logging.getLogger("apprise")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)  # at level debug it tells each path
    lines = _Lines()
    logger.addHandler(lines)
    try:
        yield lines.said
    finally:
        logger.removeHandler(lines)


def _without_secrets(text: str, address: str) -> str:
    """On one line, bounded, and without any part of the address, as written or decoded."""
    text = _URL.sub("…", text)
    for part in sorted(_parts(address), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "…", text, flags=re.IGNORECASE)
    line = clean(" ".join(text.split()))
    return line if len(line) <= REASON_LIMIT else f"{line[: REASON_LIMIT - 1]}…"


def _parts(address: str) -> set[str]:
    """Whatever of an address may be secret; it need not be one that can be read."""
    place, _, query = address.partition("://")[2].partition("?")
    host, _, path = place.partition("/")
    found = [address, place, host, path, query, *re.split("[:@]", host), *path.split("/")]
    found += [option.partition("=")[2] for option in query.split("&")]
    known = {part for text in found for part in (text, unquote(text))}
    return {part for part in known if len(part) > 1 and not part.isdigit() and part.lower() not in _OPTION_WORDS}
