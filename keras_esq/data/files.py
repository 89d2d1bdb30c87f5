"""Finding the files of a named data set: at a path, in the Keras cache, or by Keras' download."""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from keras_esq.data.sources import SOURCES, Format, Source

_ARCHIVES = (".tar.gz", ".tgz", ".tar")


def find_at(source: Source, path: Path) -> Path:
    """The folder, archive or .npz file of `source` at `path`.

    Raises:
        FileNotFoundError: if `path` does not exist, or is a folder without the files.
        ValueError: for a file of another kind, or a folder with several .npz files to choose from.
    """
    if not path.exists():
        raise FileNotFoundError(f"Expected the files of {source.name!r} at {str(path)!r}, which does not exist.")
    if not path.is_dir():
        if path.suffix != ".npz" and not path.name.endswith(_ARCHIVES):
            raise ValueError(
                f"Expected a folder, an .npz file or an archive ({', '.join(_ARCHIVES)}) of {source.name!r}. Received "
                f"the file {str(path)!r}. Give the folder that it is in."
            )
        return path
    found = _find_in(source, path, [path / folder for folder in source.folders] + [path])
    if found is None:
        # Also parts of a data set, such as cifar10_20k.npz; but cifar100.npz is none of cifar10.
        own = [file for file in sorted(path.glob("*.npz")) if re.match(rf"{source.name}(?!\d)", file.name)]
        if len(own) > 1:
            raise ValueError(f"Expected one .npz file of {source.name!r}. Received {[f.name for f in own]}. Name one.")
        found = own[0] if own else None
    if found is None:
        raise FileNotFoundError(
            f"Expected the files of {source.name!r} in {str(path)!r}: {describe(source)}.{_instead(source, path)}"
        )
    return found


def find_in_cache(source: Source) -> Path | None:
    """The folder, archive or .npz file of `source` in the Keras cache, or None."""
    cache = keras_cache()
    return _find_in(source, cache, [cache / folder for folder in source.folders])


def keras_cache() -> Path:
    """Where Keras keeps data sets: ~/.keras/datasets, unless the user moved it."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"


def download(source: Source) -> Path:
    """Download `source` into the Keras cache by Keras' own function; returns the archive or the folder.

    Raises:
        FileNotFoundError: if that fails, with the files to put where.
    """
    from keras_esq._keras import keras  # reading files needs no TensorFlow

    cache = keras_cache()
    with contextlib.suppress(OSError):  # Keras tells what it does without it
        cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        paths = [
            Path(
                keras.utils.get_file(
                    part.name,
                    part.url,
                    file_hash=part.sha256,
                    cache_dir=str(cache.parent),
                    cache_subdir=os.path.join(cache.name, source.cache_folder),
                )
            )
            for part in source.downloads
        ]
    except Exception as error:  # Keras raises a bare Exception when it has no network
        addresses = ", ".join(part.url for part in source.downloads)
        raise FileNotFoundError(
            f"Expected the files of {source.name!r} in the Keras cache, or a network to download them. The download "
            f"failed: {error}. Get {addresses} on another machine and put it into "
            f"{str(cache / source.cache_folder)!r}. Or pass path=, the place of {describe(source)}."
        ) from error
    return paths[0] if len(paths) == 1 else paths[0].parent


def describe(source: Source) -> str:
    """The files that make up `source`, in words."""
    formats = [f"{', '.join((*one.train, *one.test))}" for one in source.formats]
    plain = " or .gz of them" if source.name in ("mnist", "fashion_mnist") else ""
    return f"one of {', '.join(source.archives)}; or the files {'; or '.join(formats)}{plain}"


def members(location: Path) -> dict[str, Path]:
    """The files in a folder by the names that `Format` has for them, gzipped and differently spelt ones too."""
    files: dict[str, Path] = {}
    for file in sorted(location.iterdir() if location.is_dir() else ()):
        if file.is_file():
            files.setdefault(_normal(file.name), file)
    return files


def read_members(location: Path, names: Iterable[str]) -> dict[str, bytes]:
    """The content of those of the files `names` that are in a folder or an archive.

    Raises:
        OSError: if a file can't be read.
        ValueError: for a damaged archive.
    """
    wanted = set(names)
    if location.is_dir():
        return {name: file.read_bytes() for name, file in members(location).items() if name in wanted}
    found: dict[str, bytes] = {}
    try:
        # One pass: to go back in a compressed archive is to unpack it again.
        with tarfile.open(location, "r|*") as archive:
            for member in archive:
                name = _normal(os.path.basename(member.name))
                if name in wanted and member.isfile():
                    stream = archive.extractfile(member)
                    found[name] = stream.read() if stream else b""
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"Expected {str(location)!r} to be a whole archive. Received a damaged or truncated one ({error}). "
            "Download it again."
        ) from error
    return found


def _find_in(source: Source, base: Path, folders: list[Path]) -> Path | None:
    for folder in folders:
        have = members(folder)
        if any(_complete(one, have) for one in source.formats):
            return folder
    return next((base / name for name in source.archives if (base / name).is_file()), None)


def _complete(one: Format, have: Iterable[str]) -> bool:
    return {*one.train, *one.test} <= set(have)


def _instead(source: Source, path: Path) -> str:
    """What is missing if a part of the files is there, or what is there instead."""
    for other in SOURCES.values():
        if _find_in(other, path, [path / folder for folder in other.folders] + [path]):
            return f" It holds {other.name!r}."
    for folder in [path / folder for folder in source.folders] + [path]:
        have = members(folder)
        for one in source.formats:
            missing = [name for name in (*one.train, *one.test) if name not in have]
            if len(missing) < len((*one.train, *one.test)):
                return f" {str(folder)!r} lacks {', '.join(missing)}."
    return ""


def _normal(name: str) -> str:
    """A file's name without .gz, as the original idx files are spelt."""
    return name.removesuffix(".gz").replace(".idx", "-idx")
