"""How this machine reaches its package registries: handed to a build as secrets, so that none of it is in an image."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from embedded.images import podman

# What of pip's settings says where packages come from and how. Paths and constraints are the machine's own affair.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "retries")
_APT_SETTINGS = re.compile(r"Acquire::(https?::|Retries\b)")


def build_secrets() -> list[str]:
    """The ``--secret`` options of a build, for the ids that docker/flow/Dockerfile reads."""
    directory = podman.directory() / "secrets"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = []
    pip = pip_settings()
    texts = {"pip.conf": pip_conf(pip), "uv.toml": uv_toml(pip), "apt.conf": apt_conf()}
    for name, text in texts.items():
        if text:
            (directory / name).write_text(text)
            options.append(f"--secret=id={name},src={directory / name}")
    certificates = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        options.append(f"--secret=id=ca.crt,src={certificates}")
    return options


def pip_settings() -> dict[str, str]:
    """pip's settings that a build needs, whichever file or variable they come from."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    settings = {}
    for line in done.stdout.splitlines():  # a variable comes first and wins; within files, later ones win
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in _PIP_SETTINGS and (name not in settings or not key.startswith("global.")):
            settings[name] = str(ast.literal_eval(value))
    for name in ("index-url", "extra-index-url"):
        urls = [url for url in settings.pop(name, "").split() if url.startswith("http")]
        if urls:
            settings[name] = " ".join(urls)
    return settings


def pip_conf(settings: dict[str, str]) -> str:
    """A pip.conf with these settings; empty without any."""
    lines = [f"{name} = {value}" for name, value in sorted(settings.items())]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def uv_toml(pip: dict[str, str]) -> str:
    """A uv.toml with the machine's indexes: uv's own, or else pip's; empty where it is PyPI."""
    own = Path(os.environ.get("UV_CONFIG_FILE") or Path.home() / ".config" / "uv" / "uv.toml")
    if variable := os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"):
        indexes: list[dict[str, Any]] = [{"url": variable, "default": True}]
    elif own.is_file() and (found := tomllib.loads(own.read_text()).get("index")):
        indexes = found
    else:
        indexes = [{"url": url} for url in pip.get("extra-index-url", "").split()]
        indexes += [{"url": pip["index-url"], "default": True}] if "index-url" in pip else []
    tables = []
    for index in indexes:
        default = "default = true\n" if index.get("default") else ""
        tables.append(f'[[index]]\nurl = "{index["url"]}"\n{default}')
    return "\n".join(tables)


def apt_settings() -> list[str]:
    """apt's proxies and time limits, as lines of an apt.conf."""
    try:
        done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [line for line in done.stdout.splitlines() if _APT_SETTINGS.match(line) and not line.endswith(' "";')]


def apt_conf() -> str:
    """An apt.conf with the machine's settings; empty without any."""
    return "".join(f"{line}\n" for line in apt_settings())
