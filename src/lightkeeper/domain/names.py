"""Names: text is parsed once, at the edge, and trusted afterwards.

Rules of Rucio's policy package for the observatory: an LFN matches ``/[A-Za-z0-9][/A-Za-z0-9._-]*`` and has at
most 250 characters. Here every part between slashes must in addition be a plain file name, so that an LFN can
be used as a path below a storage's root without ever leaving it.
"""

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import NewType

from lightkeeper.domain.errors import Invalid

MAX_LFN = 250
MAX_PART = 255
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_LFN = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*)+\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}\Z")
_ADLER32 = re.compile(r"[0-9a-f]{8}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")

Lfn = NewType("Lfn", str)
"""Path-like logical file name, checked by `parse_lfn`."""


def parse_lfn(text: str) -> Lfn:
    """`text` as an LFN; raises Invalid with the offending part named."""
    if len(text) <= MAX_LFN and _LFN.match(text):
        return Lfn(text)
    if not text.startswith("/"):
        raise Invalid(
            f"'{printable(text)}' is not a file name of the catalogue: it must be absolute, like /vo/scope/file"
        )
    if len(text) > MAX_LFN:
        raise Invalid(f"'{printable(text[:60])}…' has {len(text)} characters; a file name may have {MAX_LFN}")
    for part in text[1:].split("/"):
        if not _PART.match(part):
            raise Invalid(
                f"'{printable(text)}' is not a file name of the catalogue: part '{printable(part)}' is not allowed",
                hint="parts begin with a letter or digit and hold letters, digits, '.', '_' and '-'",
            )
    return Lfn(text)


def lfn_below(file: PurePath, data_path: PurePath, to: str = "") -> Lfn:
    """The name of a file that lies below `data_path` as it will in the catalogue: `to`, and what follows that folder.
    Raises Invalid."""
    if not file.is_absolute():
        raise Invalid(f"the path '{printable(str(file))}' must be absolute")
    if ".." in file.parts or not file.is_relative_to(data_path) or file == data_path:
        raise Invalid(
            f"the path '{printable(str(file))}' is not within data_path {printable(str(data_path))}",
            hint="give files below it, or the directory of the catalogue that they go to",
        )
    return parse_lfn(f"{to}/{file.relative_to(data_path).as_posix()}")


def split_lfn(lfn: Lfn) -> tuple[str, str]:
    """Directory and name: ('/vo/scope', 'file')."""
    directory, _, name = lfn.rpartition("/")
    return directory, name


def collections_of(lfn: Lfn) -> list[str]:
    """The directories that a name lies in, from the outermost on: a night's file is in its day, month, year…"""
    parts = lfn[1:].split("/")[:-1]
    return ["/" + "/".join(parts[: n + 1]) for n in range(len(parts))]


def scope_of(lfn: Lfn) -> str:
    """Scope by the observatory's policy: the second part; users have `user.<name>`; short names have `root`."""
    parts = lfn[1:].split("/")
    if len(parts) < 3:
        return "root"
    if parts[1] == "user":
        return f"user.{parts[2]}"
    return parts[1]


def parse_name(text: str, what: str) -> str:
    """A name of a site, storage, production…: a letter, then at most 63 letters, digits, '.', '_' or '-'."""
    if not _NAME.match(text):
        raise Invalid(
            f"'{printable(text)}' is not a name for a {what}",
            hint="a letter, then at most 63 letters, digits, '.', '_' or '-'",
        )
    return text


def printable(text: str) -> str:
    """`text` fit for a terminal or a log line: control characters escaped, at most 200 characters."""
    if text.isprintable() and len(text) <= 200:
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:200])


@dataclass(frozen=True, slots=True)
class Fixity:
    """Size in bytes and both checksums of one content, in canonical form (lower-case hex, leading zeros kept)."""

    size: int
    sha256: str
    adler32: str

    def __post_init__(self) -> None:
        if self.size < 0 or not _SHA256.match(self.sha256) or not _ADLER32.match(self.adler32):
            raise Invalid(
                f"not a fixity: size {self.size}, sha256 '{printable(self.sha256)}', "
                f"adler32 '{printable(self.adler32)}'",
                hint="size in bytes, sha256 as 64 and adler32 as 8 lower-case hexadecimal digits",
            )
