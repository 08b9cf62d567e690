"""Whether the packed voxels of NRRD and MetaImage files are whole, which ITK does not always notice."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1 << 14  # inflates to 16 MiB at most
ZLIB_OR_GZIP = 47
GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class PackedData:
    """Where packed voxels begin."""

    path: Path
    offset: int


def unpacked_size(path: Path, at_most: int) -> int | None:
    """Inflate the voxels of a file, keeping nothing, with the check sums at their end.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.
        at_most: Bytes after which to stop.

    Returns:
        Bytes of the voxels, more than ``at_most`` where that was exceeded; None where they are not packed.

    Raises:
        ValueError: They are damaged or truncated, or packed in several files.
        OSError: A file can't be read.
    """
    data = _find_packed(path)
    if data is None:
        return None
    try:
        with data.path.open("rb") as file:
            file.seek(data.offset)
            return _inflate(file, at_most)
    except zlib.error as error:
        raise ValueError("damaged") from error


def _find_packed(path: Path) -> PackedData | None:
    with path.open("rb") as file:
        if path.suffix.lower() in (".nrrd", ".nhdr"):
            is_packed, name = _read_nrrd_header(file)
        else:
            is_packed, name = _read_meta_header(file)
        if not is_packed:
            return None
        if not name:
            return PackedData(path, file.tell())
    if name.split()[0].upper() == "LIST" or "%" in name:
        raise ValueError("packed in several files")
    return PackedData(path.parent / name, 0)


def _read_nrrd_header(file: IO[bytes]) -> tuple[bool, str]:
    """Whether the voxels are packed, and the name of their file; empty for the file itself, then at their start."""
    fields: dict[str, str] = {}
    while line := file.readline(MAX_LINE_BYTES).strip():
        key, _, value = line.decode("utf-8", "surrogateescape").partition(":")
        fields[key.strip().lower().replace(" ", "")] = value.strip()
    return fields.get("encoding", "").lower() in ("gzip", "gz"), fields.get("datafile", "")


def _read_meta_header(file: IO[bytes]) -> tuple[bool, str]:
    """The same of a MetaImage, whose header ends with the name."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields and (line := file.readline(MAX_LINE_BYTES)):
        key, _, value = line.decode("utf-8", "surrogateescape").partition("=")
        fields[key.strip()] = value.strip()
    name = fields.get("ElementDataFile", "")
    return fields.get("CompressedData", "").startswith(("T", "t", "1")), "" if name.upper() == "LOCAL" else name


def _inflate(file: IO[bytes], at_most: int) -> int:
    size, stream = 0, zlib.decompressobj(ZLIB_OR_GZIP)
    while size <= at_most and (packed := file.read(CHUNK_BYTES)):
        size += len(stream.decompress(packed))
        while stream.eof:  # gzip may go on with another member
            rest = stream.unused_data + file.read(CHUNK_BYTES)
            if not rest.startswith(GZIP_MAGIC):
                return size
            stream = zlib.decompressobj(ZLIB_OR_GZIP)
            size += len(stream.decompress(rest))
    if size <= at_most:
        raise ValueError("truncated")
    return size
