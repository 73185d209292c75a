"""Runs uv, and brings it into ``.tools/`` first when there is none: ``python3 tools/uv.py pip install …``.

Needs nothing but Python's standard library. uv is fetched, at the version and hashes of ``tools/uv.lock``, by the
first way that this machine offers: pip, a pip from ensurepip, or the wheel from the package index that pip's or
uv's settings name. No index is named in this project, so that it installs behind anybody's own one; uv does not
read pip's settings, so they are handed on to it here.
"""

from __future__ import annotations

import configparser
import hashlib
import html.parser
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT / ".tools"
LOCK = Path(__file__).resolve().with_name("uv.lock")
HELP = """\
make: uv, the installer of this project, is missing, and this Python has no way to fetch it:
{attempts}
Any one of these mends it:
  - put uv on PATH (https://docs.astral.sh/uv), or its program into .tools/bin/uv
  - give this Python a pip (on Debian, as root: apt-get install python3-pip, or python3-venv)
  - name your package index, for example: export PIP_INDEX_URL=https://…/simple"""


class CannotFetchError(Exception):
    """This way of fetching uv does not work here; the message says why."""


def pip_settings() -> dict[str, str]:
    """pip's settings as pip itself would see them: its files, later ones win, then ``PIP_…`` variables."""
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf", Path.home() / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"]
    if os.environ.get("PIP_CONFIG_FILE"):
        files.append(os.environ["PIP_CONFIG_FILE"])
    parser = configparser.RawConfigParser()
    settings: dict[str, str] = {}
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        print(f"make: pip's settings are not readable and are left aside: {error}", file=sys.stderr)
    for section in ("global", "install"):
        if parser.has_section(section):
            settings.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def environment_for_uv(settings: dict[str, str]) -> dict[str, str]:
    """The environment with pip's index, certificates and trusted hosts in uv's words, unless uv's own are set."""
    environment = dict(os.environ)
    if settings.get("index-url") and not (environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")):
        environment["UV_DEFAULT_INDEX"] = settings["index-url"].strip()
    if settings.get("cert") and not environment.get("SSL_CERT_FILE"):
        environment["SSL_CERT_FILE"] = settings["cert"]
    if settings.get("trusted-host") and not environment.get("UV_INSECURE_HOST"):
        environment["UV_INSECURE_HOST"] = " ".join(settings["trusted-host"].split())
    return environment


def locked() -> tuple[str, frozenset[str]]:
    """Version and SHA-256 hashes of ``tools/uv.lock``."""
    text = LOCK.read_text(encoding="utf-8")
    version = re.search(r"^uv==(\S+)", text, re.MULTILINE)
    if version is None:
        raise SystemExit(f"make: {LOCK} names no version of uv; restore it from git")
    return version.group(1), frozenset(re.findall(r"sha256:([0-9a-f]{64})", text))


def by_pip(python: str) -> None:
    """Installs uv with the pip of ``python``."""
    if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode:
        raise CannotFetchError("it has no pip")
    with tempfile.TemporaryDirectory(prefix="fetched-", dir=TOOLS) as folder:
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        done = subprocess.run([*command, "--target", folder, "-r", str(LOCK)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotFetchError(f"pip could not install it: {(done.stderr or done.stdout).strip()[-600:]}")
        place(Path(folder, "bin", "uv"))


def by_ensurepip() -> None:
    """Installs uv with a pip from the standard library, in an environment that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="pip-", dir=TOOLS) as folder:
        made = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True, check=False)
        if made.returncode:
            raise CannotFetchError("it cannot make an environment with pip in it (Debian: python3-venv is not installed)")
        by_pip(str(Path(folder, "bin", "python")))


class Links(html.parser.HTMLParser):
    """The addresses on an index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps where an ``<a>`` leads to."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def by_index(settings: dict[str, str]) -> None:
    """Takes uv's wheel from the package index that the settings name, and checks its hash."""
    configured = (os.environ.get("UV_DEFAULT_INDEX"), os.environ.get("UV_INDEX_URL"), settings.get("index-url"))
    indexes = [url for url in configured if url] + settings.get("extra-index-url", "").split()
    if not indexes:
        raise CannotFetchError("no package index is configured (PIP_INDEX_URL, UV_DEFAULT_INDEX, pip.conf)")
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or settings.get("cert"))
    problems = []
    for index in indexes:
        try:
            wheel = wheel_from(index.strip().rstrip("/") + "/uv/", context)
        except (OSError, CannotFetchError) as error:  # URLError and HTTPError are OSErrors
            problems.append(str(error))
            continue
        with tempfile.TemporaryDirectory(prefix="fetched-", dir=TOOLS) as folder:
            file = Path(folder, "uv.whl")
            file.write_bytes(wheel)
            with zipfile.ZipFile(file) as archive:
                member = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
                place(Path(archive.extract(member, folder)))
        return
    raise CannotFetchError("the configured package index does not give it: " + "; ".join(problems))


def wheel_from(page: str, context: ssl.SSLContext) -> bytes:
    """The bytes of the locked wheel for this machine, by the index page of uv."""
    version, hashes = locked()
    links = Links()
    links.feed(get(page, context).decode("utf-8", errors="replace"))
    for link in links.found:
        address = urllib.parse.urljoin(page, link)
        name = urllib.parse.unquote(urllib.parse.urlsplit(address).path.rsplit("/", 1)[-1])
        if name.startswith(f"uv-{version}-py3-none-") and fits(name):
            wheel = get(address, context)
            if hashlib.sha256(wheel).hexdigest() not in hashes:
                raise CannotFetchError(f"{name} does not have the hash of tools/uv.lock")
            return wheel
    raise CannotFetchError(f"it offers no uv {version} for {platform.system()} on {platform.machine()}")


def fits(wheel: str) -> bool:
    """Whether the wheel's platform tag is this machine's: its C library, or macOS, and its processor."""
    machine = platform.machine()
    if platform.system() == "Darwin":
        return "macosx" in wheel and machine in wheel
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return libc in wheel and wheel.endswith(f"_{machine}.whl")


def get(url: str, context: ssl.SSLContext) -> bytes:
    """The body at ``url``; a password in the address is sent, and never shown."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise CannotFetchError(f"the index must be an http(s) address, not {parts.scheme or 'a path'}")
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))  # noqa: S310 - scheme checked above
    request.add_header("Accept", "text/html, application/octet-stream;q=0.9, */*;q=0.1")
    if parts.username:
        import base64

        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    with urllib.request.urlopen(request, timeout=60, context=context) as response:  # noqa: S310
        return bytes(response.read())


def place(program: Path) -> None:
    """Moves uv to where the Makefile expects it, whole or not at all."""
    program.chmod(0o755)
    target = TOOLS / "bin" / "uv"
    target.parent.mkdir(parents=True, exist_ok=True)
    program.replace(target)


def find_or_bring() -> str:
    """uv's path: the one on PATH, else the project's own, fetched if need be."""
    own = TOOLS / "bin" / "uv"
    program = shutil.which("uv") or (str(own) if own.exists() else None)
    if program:
        return program
    TOOLS.mkdir(exist_ok=True)
    print(f"make: bringing uv {locked()[0]} into .tools/", file=sys.stderr)
    settings = pip_settings()
    attempts = []
    for way, fetch in (
        ("pip", lambda: by_pip(sys.executable)),
        ("ensurepip", by_ensurepip),
        ("index", lambda: by_index(settings)),
    ):
        try:
            fetch()
        except CannotFetchError as error:
            attempts.append(f"  {way}: {error}")
        else:
            return str(own)
    raise SystemExit(HELP.format(attempts="\n".join(attempts)))


def main() -> None:
    """Replaces this process by uv with the same arguments."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever python3 is on this machine runs this file
        raise SystemExit(f"make: Metamon needs Python 3.11 or newer, not {platform.python_version()}: name one by make PYTHON=python3.11")
    program = find_or_bring()
    os.execve(program, [program, *sys.argv[1:]], environment_for_uv(pip_settings()))  # noqa: S606


if __name__ == "__main__":
    main()
