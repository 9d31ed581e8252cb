"""What the repository cites is in the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Words for documents that are not in the repository.
ABSENT = re.compile(r"design document|technical.design|redesign\.md|\bthe (?:brief|issue) says", re.IGNORECASE)
#: Names of documents. Not those of URLs.
DOCUMENT = re.compile(r"(?<![\w/.:-])([\w.-]+(?:/[\w.-]+)*\.(?:md|rst))\b")


def tracked_files() -> list[str]:
    """Return the files that git knows, or skip the test."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git here")
    listed = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip(f"git does not list files here: {listed.stderr.strip()}")
    return listed.stdout.split("\n")[:-1]


def test_cited_documents_are_here():
    """Every document that a comment, docstring or page names is a file of the repository."""
    files = tracked_files()
    documents = {file for file in files if file.endswith((".md", ".rst"))}
    missing = []
    for file in files:
        path = ROOT / file
        if path == Path(__file__) or not path.exists():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for name in DOCUMENT.findall(text):
            if name.startswith("..") or any(
                document == name or document.endswith(f"/{name}") for document in documents
            ):
                continue
            missing.append(f"{file}: {name}")
        missing += [f"{file}: {words}" for words in ABSENT.findall(text)]
    assert missing == []
