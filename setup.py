"""What setup.cfg cannot say: how the source archive is written. All else is there."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

#: Seconds since 1970 that every file in the archive bears, unless SOURCE_DATE_EPOCH says others: 2026-01-01.
DATE = 1_767_225_600


class SameArchive(sdist):
    """A source archive that is the same, byte for byte, whenever, wherever and by whomever it is built from the same files."""

    def make_archive(self, base_name: str, format: str, root_dir: str | None = None, base_dir: str | None = None, **options: object) -> str:  # fmt: skip
        """Write it: files in order, without owners, times and modes of the computer."""
        if format != "gztar" or base_dir is None:
            return super().make_archive(base_name, format, root_dir=root_dir, base_dir=base_dir, **options)
        date = int(os.environ.get("SOURCE_DATE_EPOCH", DATE))
        name = Path(f"{base_name}.tar.gz")
        name.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(root_dir or ".")
        with (
            name.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=date) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted(folder.joinpath(base_dir).rglob("*")):
                if path.is_file():
                    entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                    entry.size, entry.mtime, entry.mode = path.stat().st_size, date, 0o644
                    with path.open("rb") as content:
                        archive.addfile(entry, content)
        return str(name)


setup(cmdclass={"sdist": SameArchive})
