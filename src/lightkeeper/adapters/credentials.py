"""Credentials of remote storages: one file, named by LIGHTKEEPER_CREDENTIALS, YAML or JSON, by storage name.

    PIC-dav:  {token_file: /run/tokens/pic}
    old-dav:  {user: lightkeeper, password: …, ca: /etc/grid-security/certificates}
    store-s3: {access_key: …, secret_key: …}
    x509-dav: {certificate: /etc/lightkeeper/robot.pem, key: /etc/lightkeeper/robot.key}

Only its owner may read the file, and the token files and keys it names; else everything is refused. Without the file or
without an entry a storage is used anonymously. Nothing that is secret is in a message, a log line or a `repr`; the
file and a token file are read again when they have changed, so a token may be renewed while the system runs.
"""

import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from lightkeeper.domain.errors import Invalid, Refused, nearest

VARIABLE = "LIGHTKEEPER_CREDENTIALS"
MAX_BYTES = 1 << 20


class Secret:
    """A text that shows itself only when asked by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself. Use it where it is sent, keep it in no variable."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one storage is shown. All empty: it is used anonymously."""

    token_file: Path | None = None
    user: str = ""
    password: Secret = NO_SECRET
    access_key: Secret = NO_SECRET
    secret_key: Secret = NO_SECRET
    session_token: Secret = NO_SECRET
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @property
    def identifying(self) -> bool:
        """Whether they tell who we are, so that nobody else may see them on the way."""
        return bool(self.token_file or self.user or self.access_key)

    def token(self) -> Secret:
        """The bearer token as its file holds it now; empty when there is none."""
        if self.token_file is None:
            return NO_SECRET
        token = _private_bytes(self.token_file, "token file").decode("ascii", "replace").strip()
        if not token or any(not "!" <= letter <= "~" for letter in token):
            raise Invalid(f"the token file {self.token_file} holds no token", hint="one line with the token, no more")
        return Secret(token)


ANONYMOUS = Credentials()

_SECRETS = {"password", "access_key", "secret_key", "session_token"}
_FILES = {"token_file", "certificate", "key", "ca"}
_KEYS = _SECRETS | _FILES | {"user"}
_TOGETHER = (("user", "password"), ("access_key", "secret_key"), ("certificate", "key"))


def credentials_of(storage: str) -> Credentials:
    """The credentials of storage `storage`; anonymous when there are none.

    Raises Refused when others may read the file, Invalid when it does not say what it must.
    """
    named = os.environ.get(VARIABLE, "")
    if not named:
        return ANONYMOUS
    path = Path(named)
    try:
        found = path.stat()
    except FileNotFoundError:
        return ANONYMOUS
    except OSError as error:
        raise Refused(f"the credentials {path} cannot be read: {error.strerror}", hint=f"see {VARIABLE}") from None
    return _entries(path, found.st_mtime_ns, found.st_ctime_ns, found.st_size).get(storage, ANONYMOUS)


# --- helpers -----------------------------------------------------------------------------------------------
@lru_cache(maxsize=4)
def _entries(path: Path, _modified: int, _changed: int, _size: int) -> dict[str, Credentials]:
    wrong = document = None
    try:
        document = _hidden(YAML(typ="safe", pure=True).load(_private_bytes(path, "credentials")))
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        wrong = _place_of(error)
    if wrong is not None:
        raise Invalid(f"the credentials {path} are neither YAML nor JSON{wrong}")
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise Invalid(f"the credentials {path} are not storage names with their keys", hint="NAME: {token_file: …}")
    return {name: _entry(path, name, fields) for name, fields in cast(dict[str, Any], document).items()}


def _entry(path: Path, name: str, fields: Any) -> Credentials:
    where = f"the credentials of {name} in {path}"
    if not isinstance(fields, dict):
        raise Invalid(f"{where} are not keys and values", hint=f"known keys are: {', '.join(sorted(_KEYS))}")
    made: dict[str, Any] = {}
    for key, value in cast(dict[Any, Any], fields).items():
        if key not in _KEYS:
            raise Invalid(f"{where} have an unknown key", hint=nearest(str(key), _KEYS))
        if not value:
            raise Invalid(f"{where}: {key} is not a text", hint=f'write it in quotes: {key}: "…"')
        if key in _FILES and not value.reveal().startswith("/"):
            raise Invalid(f"{where}: {key} is no whole path, from /")
        made[key] = Path(value.reveal()) if key in _FILES else value if key in _SECRETS else value.reveal()
    for first, second in _TOGETHER:
        if (first in made) != (second in made):
            raise Invalid(f"{where}: {first} and {second} belong together")
    if ("user" in made) + ("token_file" in made) + ("access_key" in made) > 1:
        raise Invalid(f"{where} are of several kinds", hint="one of token_file, user or access_key")
    return Credentials(**made)


def _place_of(error: Exception) -> str:
    """The line that cannot be read; not in the parser's own words, which quote it."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    return f" at line {mark.line + 1}" if mark else ""


def _hidden(value: Any, depth: int = 2) -> Any:
    """Mappings with every text in them hidden: a trace that shows variables must not show these. All else is None."""
    if isinstance(value, dict) and depth:
        return {key: _hidden(below, depth - 1) for key, below in cast(dict[Any, Any], value).items()}
    return Secret(value) if isinstance(value, str) else {} if value is None and depth == 2 else None


def _private_bytes(path: Path, what: str) -> bytes:
    """The content of a small file that is its owner's alone."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise Refused(f"others may read the {what} {path}", hint=f"chmod 600 {path}")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise Refused(f"the {what} {path} cannot be read: {error.strerror}", hint=f"see {VARIABLE}") from None


def must_be_private(path: Path, what: str) -> None:
    """Raises Refused when others may read the file."""
    _private_bytes(path, what)
