"""What is given away: the source archive, and the versions that the metadata allow."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: First versions without a published vulnerability, as the advisories of each project say (December 2026).
SAFE = {"requests": (2, 33), "urllib3": (2, 7), "h2": (4, 3), "hpack": (4, 2), "redis": (4, 5, 4), "pyyaml": (5, 4)}
BUILD = "import os, sys; from setuptools import build_meta; os.chdir(sys.argv[1]); print(build_meta.build_sdist(sys.argv[2]))"

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the repository")


def build(folder: Path, out: Path, umask: int) -> Path:
    """Build the source archive of a copy of the repository."""
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, folder, ignore=ignored, copy_function=shutil.copyfile)
    for number, path in enumerate(folder.rglob("*")):
        os.utime(path, (1_000_000_000 + umask + number, 1_000_000_000 + umask + number))
    out.mkdir()
    command = [sys.executable, "-c", BUILD, str(folder), str(out)]
    environment = {name: text for name, text in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    old = os.umask(umask)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    finally:
        os.umask(old)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def test_sdist_is_the_same_twice(tmp_path):
    """Other times, another place, another mask of modes: the same bytes. It holds all of the package, and nothing of the tests."""
    first = build(tmp_path / "a", tmp_path / "one", 0o022)
    second = build(tmp_path / "elsewhere", tmp_path / "two", 0o077)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    package = ROOT / "groq_provider"
    files = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert files <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "setup.cfg", "setup.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", ".ci")) or name.endswith(".pyc")]


@pytest.mark.parametrize("name", SAFE)
def test_floors_are_safe(name):
    """The lowest version allowed is one without a published vulnerability."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = [config["options"]["install_requires"], *(extras[key] for key in ("yaml", "toml", "cli", "redis", "http2"))]
    floors = dict(re.findall(r"^\s*([A-Za-z0-9-]+) >= ([0-9.]+)", "\n".join(lines), re.MULTILINE))
    floor = next(version for key, version in floors.items() if key.lower() == name)
    assert tuple(map(int, floor.split("."))) >= SAFE[name]
