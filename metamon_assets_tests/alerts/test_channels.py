"""What services are told, against real servers; and that no failure tells an address."""

from __future__ import annotations

import base64
import logging
import threading
from io import StringIO

import pytest
from apprise.plugins import pagerduty
from apprise.plugins.sendgrid import NotifySendGrid
from apprise.plugins.slack import NotifySlack

from metamon_assets.alerts import channels
from metamon_assets.alerts.channels import DeliveryError, Message
from metamon_assets.config.shape import Channel
from metamon_assets_tests.alerts.delivery import Mailbox, Web, free_port, kinds_of, part_of

PNG = base64.b64encode(b"\x89PNG and more").decode()
MESSAGE = Message(
    subject="[critical] HighErrorRate, agent <sales>",
    text="12 % of <!channel> & others fail\nhttps://metamon.example/incidents/7",
    html=f'<p>12 % fail</p><p><a href="https://m/7">https://m/7</a></p><img src="data:image/png;base64,{PNG}" alt="hours">',
    event="opened",
    severity="critical",
    key="incident-7-opened-critical",
    group="agent|sales",
    incident_id=7,
    link="https://metamon.example/incidents/7",
)
RESOLVED = Message(
    "[resolved] HighErrorRate", "It is over.", None, "resolved", "critical", "incident-7-resolved-critical", "g", 7, MESSAGE.link
)
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7aa?rto=2&cto=2"


def send(monkeypatch: pytest.MonkeyPatch, kind: str, url: str, *messages: Message) -> None:
    monkeypatch.setenv("CHANNEL_URL", url)
    for message in messages:
        channels.send(Channel.model_validate({"type": kind, "url": "env:CHANNEL_URL"}), message)


def reason(monkeypatch: pytest.MonkeyPatch, kind: str, url: str) -> str:
    with pytest.raises(DeliveryError) as failure:
        send(monkeypatch, kind, url, MESSAGE)
    return str(failure.value)


def test_mails_have_both_forms_the_picture_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox(free_port())
    with box.open():
        send(monkeypatch, "email", box.url, MESSAGE, RESOLVED)
    opened, resolved = box.mails
    assert (opened["Subject"], opened["From"], opened["To"]) == (MESSAGE.subject, "metamon@example.com", "ops@example.com")
    assert opened["X-Metamon-Key"] == MESSAGE.key
    assert kinds_of(opened) == ["multipart/related", "multipart/alternative", "text/plain", "text/html", "image/png"]
    assert "https://m/7" in part_of(opened, "text/plain")
    assert 'src="cid:picture-1.png"' in part_of(opened, "text/html")
    (picture,) = [part for part in opened.walk() if part.get_content_type() == "image/png"]
    assert picture["Content-ID"] == "<picture-1.png>"
    assert picture.get_content() == base64.b64decode(PNG)
    assert opened["References"] == resolved["References"] == "<incident-7@metamon.example>"
    assert "It is over." in part_of(resolved, "text/plain")


def test_webhooks_get_the_key_and_their_own_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web().open() as web:
        send(monkeypatch, "webhook", f"http://127.0.0.1:{web.port}/hook/one?token=abc&method=x", MESSAGE)
    ((path, body),) = web.posts
    assert path == "/hook/one?token=abc&method=x"
    assert {name: body[name] for name in ("title", "message", "type")} == {
        "title": MESSAGE.subject,
        "message": MESSAGE.text,
        "type": "failure",
    }
    assert body["dedup_key"] == "incident-7-opened-critical"
    assert (body["event"], body["severity"], body["incident_id"], body["group"]) == ("opened", "critical", 7, "agent|sales")
    assert body["link"] == MESSAGE.link


def test_services_that_send_mail_get_html_without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(answer=lambda _: 202).open() as web:
        monkeypatch.setattr(NotifySendGrid, "notify_url", f"http://127.0.0.1:{web.port}/v3/mail/send")
        send(monkeypatch, "email", "sendgrid://abcd123:metamon@example.com/ops@example.com", MESSAGE)
    ((_, body),) = web.posts
    contents = {part["type"]: part["value"] for part in body["content"]}
    assert "12 % fail" in contents["text/html"]
    assert "<img" not in contents["text/html"]
    assert body["personalizations"][0]["to"][0]["email"] == "ops@example.com"


def test_slack_obeys_nothing_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web().open() as web:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{web.port}/services")
        send(monkeypatch, "slack", SLACK, MESSAGE)
        send(monkeypatch, "slack", "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7aa", MESSAGE)
    assert [path for path, _ in web.posts] == ["/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7aa"] * 2
    attachment = web.posts[0][1]["attachments"][0]
    assert "&lt;!channel&gt; &amp; others" in attachment["text"]
    assert "<" not in attachment["title"]
    assert web.posts[0][1]["mrkdwn"] is False


def test_pagerduty_has_one_alert_an_incident_that_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web().open() as web:
        monkeypatch.setitem(pagerduty.PAGERDUTY_API_LOOKUP, "us", f"http://127.0.0.1:{web.port}/v2/enqueue")
        send(monkeypatch, "pagerduty", "pagerduty://routingkey@events", MESSAGE, RESOLVED)
    (_, opened), (_, resolved) = web.posts
    assert opened["event_action"] == "trigger"
    assert opened["dedup_key"] == resolved["dedup_key"] == MESSAGE.link
    assert (opened["payload"]["severity"], opened["payload"]["summary"]) == ("critical", MESSAGE.subject)
    assert opened["payload"]["custom_details"]["text"] == MESSAGE.text
    assert opened["links"] == [{"href": MESSAGE.link}]
    assert resolved["event_action"] == "resolve"
    assert opened["routing_key"] == "routingkey"


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
def test_a_refusal_is_told_with_its_status_and_answer(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with Web(answer=lambda _: status).open() as web:
        told = reason(monkeypatch, "webhook", web.url("secretpath"))
    assert f"error={status}" in told
    assert "secretpath" not in told


def test_a_server_that_hangs_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(answer=lambda _: 0).open() as web:
        assert "Connection" in reason(monkeypatch, "webhook", web.url())


def test_a_slow_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(seconds=5).open() as web:
        assert "Read timed out" in reason(monkeypatch, "webhook", f"json://127.0.0.1:{web.port}/hook?rto=0.5")


@pytest.mark.parametrize("said", ["550 no such user", "451 try later", "421 going away"])
def test_a_mail_that_is_refused_is_told(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    box = Mailbox(free_port(), answer=lambda _: said)
    with box.open():
        assert "failed" in reason(monkeypatch, "email", box.url)


SECRETS = ("geheim-user", "geheim/pass", "geheim%2Fpass", "geheimtoken", "geheimpath", "geheim.example", "im-token")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("email", "mailto://geheim-user:geheim%2Fpass@127.0.0.1:{port}/?from=a@geheim.example&to=b@geheim.example&mode=insecure"),
        ("email", "mailtos://geheim-user:geheim%2Fpass@127.0.0.1:{port}/?from=a@geheim.example&to=b@geheim.example"),
        ("webhook", "http://geheim-user:geheim%2Fpass@127.0.0.1:{port}/geheimpath?token=geheimtoken"),
        ("webhook", "jsons://geheim-user:geheim%2Fpass@127.0.0.1:{port}/geheimpath?-token=geheimtoken"),
        ("webhook", "http://127.0.0.1:{port}/?token=gehe%20im-token"),
        ("email", "nothing://geheim-user:geheim%2Fpass@127.0.0.1/geheimpath"),
        ("email", "geheimtoken"),
        ("slack", "slack://geheimtoken"),
        ("pagerduty", "pagerduty://geheimtoken"),
        ("webhook", "https://[geheimtoken"),
    ],
)
def test_no_failure_tells_the_address(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str, url: str) -> None:
    log = StringIO()
    handler = logging.StreamHandler(log)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    told = reason(monkeypatch, kind, url.format(port=free_port()))
    assert told
    everything = told + log.getvalue() + "".join(capfd.readouterr())
    assert not [secret for secret in SECRETS if secret in everything]


def test_an_answer_that_repeats_the_address_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(answer=lambda _: 500).open() as web:
        told = reason(monkeypatch, "webhook", web.url("ok", rest="b"))  # the server answers "ok"
    assert "error=500" in told
    assert "b'ok'" not in told


def test_what_is_not_in_the_environment_is_told_by_name() -> None:
    with pytest.raises(DeliveryError, match="ABSENT_URL"):
        channels.send(Channel.model_validate({"type": "email", "url": "env:ABSENT_URL"}), MESSAGE)


def test_reasons_of_channels_that_fail_at_once_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, str] = {}

    def fail(status: int) -> None:
        with Web(answer=lambda _: status, seconds=0.2).open() as web:
            monkeypatch.setenv(f"URL_{status}", web.url())
            with pytest.raises(DeliveryError) as failure:
                channels.send(Channel.model_validate({"type": "webhook", "url": f"env:URL_{status}"}), MESSAGE)
            told[status] = str(failure.value)

    threads = [threading.Thread(target=fail, args=(status,)) for status in (400, 404, 500, 503)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all([str(other) in text for other in told] == [other == status for other in told] for status, text in told.items())
