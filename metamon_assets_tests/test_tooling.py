"""What holds the project together: locks, the bringer of uv, import rules, and what may not stand in any file."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from metamon_assets_tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[1]
# Put together here, since no file may name them.
REGISTRIES = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "anaconda" + ".org", "conda-" + "forge.org", "artifact" + "ory"]
HEAVY = {"dagster", "pandas", "scipy", "statsmodels", "great_expectations", "langsmith", "genai_prices", "altair", "sqlalchemy"}
DAGSTER_NAMES = ("assets", "checks", "sensors", "schedules", "definitions", "resources", "partitions", "jobs")
DAGSTER_FILES = {f"{name}.py" for name in DAGSTER_NAMES}


def tracked_files() -> list[Path]:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    return [REPOSITORY / name for name in names if name and (REPOSITORY / name).exists()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def test_no_file_names_a_registry_or_a_path_of_somebodys_machine() -> None:
    machine_path = re.compile(r"(?<![\w./-])/(?:work|root|home)/[A-Za-z]")
    found = []
    for path in tracked_files():
        text = text_of(path)
        found += [f"{path}: {word}" for word in REGISTRIES if word in text]
        found += [f"{path}: {match.group()}…" for match in machine_path.finditer(text)]
    assert not found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "tools/uv.lock"])
def test_locks_pin_versions_and_hashes_and_no_addresses(name: str) -> None:
    text = text_of(REPOSITORY / name)
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links)", text, re.MULTILINE)
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert all(re.match(r"[\w.\[\],-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)


def test_locks_hold_what_the_project_asks_for_in_the_same_versions() -> None:
    project = tomllib.loads(text_of(REPOSITORY / "pyproject.toml"))["project"]

    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", text_of(REPOSITORY / name), re.MULTILINE))

    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    extras = project["optional-dependencies"]
    for lock, wanted in ((run, [*project["dependencies"], *extras["build"]]), (dev, [*extras["build"], *extras["dev"]])):
        missing = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted} - {name.lower() for name in lock}
        assert not missing
    assert run.items() <= dev.items()


def test_make_lists_its_targets() -> None:
    said = subprocess.run(["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {"run", "up", "down", "test", "lint", "types", "bench", "lock", "clean"} <= set(re.findall(r"^make (\S+)", said, re.MULTILINE))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile, and a ``metamon`` that writes down its home and what it was told; ``up`` stays."""
    folder = tmp_path / "with spaces"
    (folder / ".venv/bin").mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "Makefile", folder / "Makefile")
    for name in ("requirements.lock", "pyproject.toml", ".venv/bin/python", ".venv/installed-run"):
        (folder / name).touch()
    metamon = folder / ".venv/bin/metamon"
    metamon.write_text('#!/bin/sh\necho "$METAMON_HOME $1" >> said\nif [ "$1" = up ]; then echo $$ > pid; exec sleep 1000; fi\n')
    metamon.chmod(0o755)
    return folder


def making(checkout: Path, target: str, **environment: str) -> subprocess.Popen[bytes]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("METAMON_", "MAKE", "MFLAGS"))}
    return subprocess.Popen(["make", target], cwd=checkout, env=plain | environment, start_new_session=True)


def test_a_signal_to_make_up_ends_what_it_started(checkout: Path) -> None:
    with making(checkout, "up") as make:
        pid = int(until(lambda: (checkout / "pid").exists() and (checkout / "pid").read_text(), 20, "the start"))
        os.kill(make.pid, signal.SIGTERM)  # not the group, as a terminal would
        make.wait(20)
    try:
        until(lambda: not Path(f"/proc/{pid}").exists(), 10, "its end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_make_keeps_own_data_and_the_sample_world_apart_and_stops_both(checkout: Path) -> None:
    def said(*targets: str, **environment: str) -> list[str]:
        (checkout / "said").unlink(missing_ok=True)
        assert [making(checkout, target, **environment).wait(20) for target in targets] == [0] * len(targets)
        return (checkout / "said").read_text().splitlines()

    assert said("run") == [".metamon-sample simulate", ".metamon-sample run"]
    (checkout / ".metamon-sample").mkdir()
    assert said("down") == [".metamon-sample down"]
    (checkout / ".metamon").mkdir()
    (checkout / ".metamon/metamon.yaml").touch()  # of `metamon connect`, after the sample world was brought up
    assert said("down") == [".metamon down", ".metamon-sample down"]
    assert said("run", "down", METAMON_HOME="a home") == ["a home simulate", "a home run", "a home down"]


def test_import_rules() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def module_level_imports(tree: ast.Module) -> Iterator[str]:
    """Top-level packages that importing the module imports; ``if TYPE_CHECKING:`` blocks do not count."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    found = []
    for path in sorted((REPOSITORY / "metamon_assets").rglob("*.py")):
        allowed = {"dagster"} if path.name in DAGSTER_FILES else set()
        if path.is_relative_to(REPOSITORY / "metamon_assets/statistics") and path.name != "__init__.py":
            allowed = {"scipy", "statsmodels", "pandas"}
        heavy = (set(module_level_imports(ast.parse(text_of(path)))) & HEAVY) - allowed
        found += [f"{path.relative_to(REPOSITORY)} imports {', '.join(sorted(heavy))} at its top"] if heavy else []
    assert not found


def test_every_module_says_what_belongs_there() -> None:
    silent = [path for path in (REPOSITORY / "metamon_assets").rglob("*.py") if not ast.get_docstring(ast.parse(text_of(path)))]
    assert not silent


# tools/uv.py -----------------------------------------------------------------------------------------------


@pytest.fixture
def uv_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/uv.py with a .tools folder of its own, and none of this machine's settings."""
    spec = importlib.util.spec_from_file_location("uv_tool", REPOSITORY / "tools/uv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in [*os.environ]:
        if name.startswith(("PIP_", "UV_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "TOOLS", tmp_path / ".tools")
    module.TOOLS.mkdir()
    return module


def test_pips_settings_reach_uv_unless_uv_has_its_own(uv_tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["[global]", "index-url = https://one.example/simple", "[install]", "trusted-host = a.example", "  b.example"]
    (tmp_path / "pip.conf").write_text("\n".join(settings))
    environment = uv_tool.environment_for_uv(uv_tool.pip_settings())
    assert environment["UV_DEFAULT_INDEX"] == "https://one.example/simple"
    assert environment["UV_INSECURE_HOST"] == "a.example b.example"
    monkeypatch.setenv("PIP_INDEX_URL", "https://two.example/simple")
    assert uv_tool.environment_for_uv(uv_tool.pip_settings())["UV_DEFAULT_INDEX"] == "https://two.example/simple"
    monkeypatch.setenv("UV_INDEX_URL", "https://three.example/simple")
    assert "UV_DEFAULT_INDEX" not in uv_tool.environment_for_uv(uv_tool.pip_settings())


@contextmanager
def index(pages: dict[str, bytes], seen: list[tuple[str, str | None]]) -> Iterator[str]:
    """A package index on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wheel(tmp_path: Path) -> bytes:
    path = tmp_path / "wheel.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("uv-9.9.9.data/scripts/uv", "#!/bin/sh\necho it is uv\n")
    return path.read_bytes()


def wheel_name(uv_tool: ModuleType) -> str:
    machine = os.uname().machine
    names = [f"uv-9.9.9-py3-none-{tag}_{machine}.whl" for tag in ("manylinux_2_17", "musllinux_1_1", "macosx_11_0")]
    return next(name for name in names if uv_tool.fits(name))


@pytest.mark.parametrize("right_hash", [True, False])
def test_uv_comes_from_the_configured_index_only_with_its_hash(
    uv_tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right_hash: bool
) -> None:
    content, name = wheel(tmp_path), wheel_name(uv_tool)
    digest = hashlib.sha256(content if right_hash else b"other").hexdigest()
    lock = tmp_path / "uv.lock"
    lock.write_text(f"uv==9.9.9 \\\n    --hash=sha256:{digest}\n")
    monkeypatch.setattr(uv_tool, "LOCK", lock)
    page = f'<a href="../files/uv-9.9.8-py3-none-any.whl">old</a> <a href="../../files/{name}#sha256=1">new</a>'.encode()
    seen: list[tuple[str, str | None]] = []
    with index({"/simple/uv/": page, f"/files/{name}": content}, seen) as host:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://ann:pass%20word@{host}/simple")
        if right_hash:
            uv_tool.by_index(uv_tool.pip_settings())
            said = subprocess.run([uv_tool.TOOLS / "bin/uv"], capture_output=True, text=True, check=True).stdout
            assert said == "it is uv\n"
        else:
            with pytest.raises(uv_tool.CannotFetchError, match=r"does not have the hash of tools/uv\.lock"):
                uv_tool.by_index(uv_tool.pip_settings())
            assert not (uv_tool.TOOLS / "bin/uv").exists()
    assert seen[0] == ("/simple/uv/", "Basic " + base64.b64encode(b"ann:pass word").decode())


def test_no_way_to_uv_ends_with_what_to_do(uv_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(uv_tool.sys, "executable", shutil.which("false", path="/usr/bin:/bin"))  # a Python without pip and venv
    with pytest.raises(SystemExit) as stopped:
        uv_tool.find_or_bring()
    said = str(stopped.value)
    assert "pip: it has no pip" in said
    assert "no package index is configured" in said
    assert "export PIP_INDEX_URL=" in said


def test_a_password_in_the_index_address_is_not_shown(uv_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with index({}, []) as host:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://ann:hidden@{host}/simple")
        with pytest.raises(uv_tool.CannotFetchError, match="404") as caught:
            uv_tool.by_index(uv_tool.pip_settings())
    assert "hidden" not in str(caught.value)
