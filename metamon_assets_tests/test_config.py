"""metamon.yaml and the environment."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml

from metamon_assets.config import (
    ConfigError,
    Configuration,
    FilesSource,
    LangSmithSource,
    MistakesError,
    Settings,
    json_schema,
    read_configuration,
    write_schema,
)
from metamon_assets.config.changes import content, differences, explain, without_effect

EXAMPLE = """
timezone: Europe/Vienna
start_day: 2026-08-01
sources:
  - type: files
    project: support
    path: calls/*.jsonl
    map: {columns: {run_id: id}}
  - type: langsmith
    project: agent
    api_key: env:METAMON_TEST_KEY
    exclude: {tags: [internal]}
  - {type: otlp, project: web, path: otlp, name: collector}
  - {type: langsmith_export, project: old, path: export}
privacy:
  store_payloads: false
  redact_patterns: {order: "A-[0-9]{6}"}
exclude:
  agents: [tester]
price_overrides:
  - {model: our-llama, input_per_million: 0.1, output_per_million: "0.30"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "metamon.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_configuration(written(folder, text))
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert read_configuration(written(tmp_path, text)) == Configuration()


def test_a_missing_file_means_the_defaults(tmp_path: Path) -> None:
    settings = Settings.load({"METAMON_HOME": str(tmp_path / "home")})
    assert (settings.sources, settings.timezone, settings.privacy.store_payloads) == ((), "UTC", True)
    assert settings.home == tmp_path / "home"
    assert settings.config_path == tmp_path / "home" / "metamon.yaml"
    assert settings.database_url is None


def test_everything_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, EXAMPLE)
    monkeypatch.setenv("METAMON_TEST_KEY", "very-secret")
    settings = Settings.load({"METAMON_HOME": str(tmp_path)})
    files, langsmith, otlp, export = settings.sources
    assert isinstance(files, FilesSource)
    assert isinstance(langsmith, LangSmithSource)
    assert settings.start_day == date(2026, 8, 1)
    assert settings.path_of(files.path) == tmp_path / "calls/*.jsonl"
    assert langsmith.api_key.value().get_secret_value() == "very-secret"
    assert langsmith.exclude.tags == ("internal",)
    assert [source.source for source in settings.sources] == ["files", "langsmith", "collector", "langsmith_export"]
    assert (otlp.project, export.project) == ("web", "old")
    (price,) = settings.price_overrides
    assert (price.input_per_million, price.output_per_million) == (Decimal("0.1"), Decimal("0.30"))
    assert price.provider == "*"


def test_the_json_schema_accepts_the_example_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    text = EXAMPLE.replace("2026-08-01", '"2026-08-01"')
    assert list(validator.iter_errors(yaml.safe_load(text))) == []
    for wrong in ("timezne: UTC", "sources: [{type: files, project: a}]", "sources: [{type: langsmith, project: a, api_key: abc}]"):
        assert list(validator.iter_errors(yaml.safe_load(wrong))), wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timezone: Europe/Wien", "metamon.yaml:1: timezone: no such time zone"),
        ("timezone: ../../etc/passwd", "metamon.yaml:1: timezone: no such time zone"),
        ("\nstart_day: 2026-13-01", "metamon.yaml:2: start_day: "),
        ("sourcs: []", "metamon.yaml:1: sourcs: unknown key; did you mean sources?"),
        ("banana: 1", "metamon.yaml:1: banana: unknown key; known here: timezone, "),
        ("sources:\n  - type: files\n    project: a\n    pth: b", "metamon.yaml:4: sources[0].pth: unknown key; did you mean path?"),
        ("sources:\n  - type: files\n    project: a", "metamon.yaml:2: sources[0].path: missing"),
        ("sources:\n  - project: a", "metamon.yaml:2: sources[0].type: missing; one of files, otlp, langsmith, langsmith_export"),
        ("sources:\n  - type: kafka\n    project: a", "metamon.yaml:2: sources[0].type: must be one of files"),
        ("sources:\n  - type: langsmit\n    project: a\n    api_key: env:K", "langsmith, langsmith_export; did you mean langsmith?"),
        ("sources:\n  - type: langsmith\n    project: a", "sources[0].api_key: missing; add it as env:NAME_OF_THE_VARIABLE"),
        ("privacy:\n  payload_limit: 3", "metamon.yaml:2: privacy.payload_limit: "),
        ("privacy:\n  redact_patterns:\n    order: '('", "metamon.yaml:3: privacy.redact_patterns.order: not a regular expression"),
        ("privacy:\n  redact: false\n  redact: true", "metamon.yaml:3: privacy.redact stands here and on line 2: keep one"),
        ("price_overrides:\n  - {model: a, input_per_million: -1}", "metamon.yaml:2: price_overrides[0].input_per_million: "),
        ("a: [", "metamon.yaml:1: not YAML"),
        ("- a\n- b", "metamon.yaml:1: the file must consist of keys and values"),
    ],
)
def test_what_is_wrong_is_told_with_line_key_and_remedy(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    said = complaint(tmp_path, "timezone: Mars\nui_port: 0\nbanana: 1\n")
    assert "has 3 things to mend" in said
    assert said.index(":1:") < said.index(":2:") < said.index(":3:")


def test_a_mistake_in_one_part_hides_none_of_another(tmp_path: Path) -> None:
    said = complaint(
        tmp_path,
        "sources:\n- {type: langsmit, project: a, api_key: lsv2_secret, pth: b}\n- {type: kafka, project: b}\n"
        "agents: {bot: {ownr: me, metrics: {good: {sql: mode}, bad: {sql: '1;2'}}, targets: {bad: {max: 1}}}}\n"
        "routes: [{channels: [oops]}]\n",
    )
    for expected in (
        "metamon.yaml:2: sources[0].type: must be",
        "metamon.yaml:2: sources[0].api_key: a secret is not written here",
        "metamon.yaml:2: sources[0].pth: unknown key",
        "metamon.yaml:3: sources[1].type: must be",
        "metamon.yaml:4: agents.bot.ownr: unknown key",
        "metamon.yaml:4: agents.bot.metrics.bad.sql: ",
        "metamon.yaml:5: routes: they name channels that are not there: oops",
    ):
        assert expected in said
    assert "has 7 things to mend" in said
    assert "lsv2_secret" not in said


def test_what_has_no_mistake_can_still_be_checked(tmp_path: Path) -> None:
    text = "channels: {ops: {type: slack, url: 1}}\nroutes: [{channels: [ops]}]\n7: 1\n"
    text += "agents: {a: {metrics: {m: {sql: mode}, n: {sql: ''}}}}\n"
    with pytest.raises(MistakesError) as caught:
        read_configuration(written(tmp_path, text))
    assert len(caught.value.mistakes) == 3, "a channel with a mistake is not also one that is missing"
    assert list(caught.value.usable.agents["a"].metrics) == ["m"]
    assert ("agents", "a", "metrics", "n") in caught.value.places


def test_the_defaults_hold_for_what_must_work_while_the_file_cannot_be_used(tmp_path: Path) -> None:
    written(tmp_path, "web: {port: x}\n")
    environment = {"METAMON_HOME": str(tmp_path), "METAMON_DATABASE_URL": "postgresql://host/db"}
    settings, unusable = Settings.load_or_defaults(environment)
    assert isinstance(unusable, MistakesError)
    assert (settings.home, settings.web.port, settings.database_url is None) == (tmp_path, 4318, False)
    written(tmp_path, "web: {port: 9}\n")
    settings, unusable = Settings.load_or_defaults(environment)
    assert (settings.web.port, unusable) == (9, None)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metamon.yaml"
    path.write_bytes(b"timezone: \xff")
    with pytest.raises(ConfigError, match=r"metamon\.yaml is not UTF-8"):
        read_configuration(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("map: " + "[" * 3_000 + "]" * 3_000, "nested too deeply"),
        ("map: &a {b: *a}", "more than 100,000 values"),
        ("a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)), "more than 100,000 values"),
        ("ui_port: " + "9" * 5_000, "a value that cannot be read"),
    ],
    ids=["nested", "endless", "a billion", "a huge number"],
)
def test_a_file_that_would_never_be_read_is_refused_at_once(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_a_literal_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    said = complaint(tmp_path, "sources:\n  - type: langsmith\n    project: a\n    api_key: lsv2_sk_abcdef\n")
    assert "metamon.yaml:4: sources[0].api_key: a secret is not written here" in said
    assert "lsv2" not in said


def test_a_secret_that_is_not_set_is_asked_for_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METAMON_TEST_KEY", raising=False)
    source = read_configuration(written(tmp_path, EXAMPLE)).sources[1]
    assert isinstance(source, LangSmithSource)
    assert not source.api_key.available
    with pytest.raises(ConfigError, match="export METAMON_TEST_KEY="):
        source.api_key.value()


def test_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, EXAMPLE)
    monkeypatch.setenv("METAMON_TEST_KEY", "very-secret")
    settings = Settings.load({"METAMON_HOME": str(tmp_path), "METAMON_DATABASE_URL": "postgresql://ann:hidden@db/metamon"})
    for shown in (repr(settings), str(settings.model_dump()), settings.model_dump_json(), repr(settings.sources[1])):
        assert "very-secret" not in shown
        assert "hidden" not in shown
    assert "env:METAMON_TEST_KEY" in settings.model_dump_json()


def test_the_environment_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="METAMON_DATABASE_URL must be an address like postgresql://"):
        Settings.load({"METAMON_HOME": str(tmp_path), "METAMON_DATABASE_URL": "mysql://x"})
    with pytest.raises(ConfigError, match="which does not exist"):
        Settings.load({"METAMON_HOME": str(tmp_path), "METAMON_CONFIG": str(tmp_path / "none.yaml")})


def test_metamon_config_moves_the_file_and_what_it_names(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = written(elsewhere, EXAMPLE)
    settings = Settings.load({"METAMON_HOME": str(tmp_path / "home"), "METAMON_CONFIG": str(path)})
    assert settings.path_of("calls") == elsewhere / "calls"
    assert settings.home == tmp_path / "home"


AGENTS = """
agents:
  support:
    owner: ann
    metrics:
      resolved: {sql: "(metadata ->> 'resolved') = 'true'", guardrail_margin: 0.02}
      rating: {feedback: stars}
    targets: {error_rate: {max: 0.01}}
channels: {ops: {type: slack, url: env:SLACK_URL}}
routes: [{channels: [ops], severities: [critical]}]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AGENTS.replace("stars}", "stars, sql: latency_seconds}"), "metamon.yaml:7: agents.support.metrics.rating: give either feedback"),
        (AGENTS.replace("(metadata ->> 'resolved') = 'true'", "sum(latency_seconds)"), ":6: agents.support.metrics.resolved.sql: "),
        (AGENTS.replace("owner", "ownr"), "metamon.yaml:4: agents.support.ownr: unknown key; did you mean owner?"),
        (AGENTS.replace("feedback: stars", "feedbak: stars"), "rating.feedbak: unknown key; did you mean feedback?"),
        (AGENTS.replace("max: 0.01", "max: 0.01, min: 1"), "agents.support.targets.error_rate: min is above max"),
        (AGENTS.replace("channels: [ops]", "channels: [oops]"), "routes: they name channels that are not there: oops (channels: ops)"),
        (AGENTS.replace("env:SLACK_URL", "https://hooks.example/abc"), "channels.ops.url: a secret is not written here"),
        ("sources:\n- {type: langsmith, project: p, api_key: env:K, endpoint: 'https://me:hunter2@x'}", ":2: an address with a password"),
        ("web: {prt: 1}", "metamon.yaml:1: web.prt: unknown key; did you mean port?"),
        ("sources: [{type: langsmith, project: a, api_key: env:A, exclude: {tag: [b]}}]", "exclude.tag: unknown key; did you mean tags?"),
    ],
)
def test_mistakes_deep_in_the_file_are_told_too(tmp_path: Path, text: str, expected: str) -> None:
    read_configuration(written(tmp_path, AGENTS))
    assert expected in complaint(tmp_path, text)


def test_a_change_is_told_key_by_key(tmp_path: Path) -> None:
    before = content(read_configuration(written(tmp_path, EXAMPLE + AGENTS)))
    changed = (EXAMPLE + AGENTS).replace("Europe/Vienna", "UTC").replace("owner: ann", "owner: bob")
    after = content(read_configuration(written(tmp_path, changed)))
    assert list(map(str, differences(before, after))) == ["- timezone: Europe/Vienna", "~ agents.support.owner: ann → bob"]
    assert differences(after, after) == []


def test_a_configuration_is_explained_with_origin_and_meaning(tmp_path: Path) -> None:
    written(tmp_path, EXAMPLE + AGENTS)
    settings = Settings.load({"METAMON_HOME": str(tmp_path)})
    explained = {entry.key: entry for entry in explain(settings)}
    assert (explained["timezone"].value, explained["timezone"].origin) == ("Europe/Vienna", "metamon.yaml:2")
    assert explained["ui_port"].origin == "default"
    assert explained["sources[1].api_key"].value == "env:METAMON_TEST_KEY"
    assert explained["agents.support.metrics.rating.feedback"].meaning == "Key of the feedback whose scores are the metric."
    assert all(entry.meaning for entry in explained.values())
    assert explained["web.port"].read_by_something
    assert not explained["agents.support.owner"].read_by_something
    assert {entry.key for entry in explain(settings, "routes")} == {"routes[0].channels[0]", "routes[0].severities[0]", "routes[0].agents"}
    assert without_effect(settings) == ["agents"]


def test_the_schema_is_written_beside_the_file_and_named_in_it_once(tmp_path: Path) -> None:
    path = written(tmp_path, "timezone: UTC\n")
    for _ in range(2):
        write_schema(path)
    assert path.read_text() == "# yaml-language-server: $schema=./metamon.schema.json\ntimezone: UTC\n"
    assert json.loads((tmp_path / "metamon.schema.json").read_text()) == json_schema()
    assert read_configuration(path).timezone == "UTC"
