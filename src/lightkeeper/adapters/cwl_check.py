"""Reads a CWL document that nobody has seen before: in a process of its own, which has no network, opens no file,
starts no program, and has limits of memory and time. `python -m lightkeeper.adapters.cwl_check`, started by
production_cwl.py.

In, as JSON: the document and the texts that lie beside it. Out, as JSON: the document as one, with everything that it
imports, after cwltool found it valid; or what is wrong. Expressions in it are text here: nobody evaluates them.
"""

import ctypes
import json
import os
import re
import resource
import sys
import tempfile
from collections.abc import Mapping
from io import StringIO
from typing import Any

MEMORY = 1_500_000_000
SECONDS = 30
MAX_DEPTH = 60
MAX_NODES = 100_000
MAX_PACKED = 5_000_000
BESIDE = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:#(.+))?\Z")
VERSIONS = ("v1.0", "v1.1", "v1.2")
URI = "file:///document.cwl"


class Wrong(Exception):
    """What is wrong with the document, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def main() -> None:
    """Read, check, tell."""
    given = json.load(sys.stdin)
    _limit()
    answer: dict[str, Any]
    try:
        version = _version(given["document"])
        _lock()
        packed = _Packer(given["files"]).whole(given["document"], version)
        _check(packed, version)
        text = json.dumps({"packed": packed})
        if len(text) > MAX_PACKED:
            raise Wrong(f"with all that it repeats the document has {len(text)} characters")
    except Wrong as wrong:
        text = json.dumps({"error": wrong.message, "hint": wrong.hint})
    except RecursionError:
        text = json.dumps({"error": "the document is nested too deep, or in itself", "hint": ""})
    except MemoryError:
        answer = {"error": "reading the document takes more memory than any honest one", "hint": ""}
        text = json.dumps(answer)
    sys.stdout.write(text)


# --- the walls -------------------------------------------------------------------------------------------------
def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # A network of its own, in which there is nobody. Where the kernel does not allow it, the hook below still does.
        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)


def _lock() -> None:
    """From here on this process opens nothing but Python's own modules, for reading."""
    sys.dont_write_bytecode = True
    tempfile.tempdir = "/nowhere"  # else it would look for a folder that can be written
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    own = tuple({os.path.realpath(p) + os.sep for p in (sys.prefix, sys.base_prefix, *sys.path) if p})
    forbidden = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.startfile",
                 "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
                 "os.chown", "shutil.", "urllib.", "http.", "ftplib.", "tempfile.", "ctypes.")  # fmt: skip

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or not isinstance(path, str) or not os.path.realpath(path).startswith(own):
                raise Wrong(f"reading the document would open {path!r} ({mode})")
        elif event.startswith(forbidden):
            raise Wrong(f"reading the document would do {event}")

    sys.addaudithook(hook)


# --- one document ----------------------------------------------------------------------------------------------
def _version(text: str) -> str:
    found = re.search(r"""["']?cwlVersion["']?\s*:\s*["']?([^\s"',}#]+)""", text)
    version = found[1] if found else ""
    if version not in VERSIONS:
        raise Wrong(f"cwlVersion '{version[:40]}' is not read", f"known are {', '.join(VERSIONS)}")
    return version


class _Packer:
    """Makes one document of one and those beside it."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._open: list[str] = []
        self._version = ""
        self._nodes = 0

    def whole(self, text: str, version: str) -> dict[str, Any]:
        """The document with everything that it names."""
        self._version = version
        document = self._process(_parse(text, "the document"), "the document", "main")
        document["cwlVersion"] = version
        return document

    def _process(self, document: Any, where: str, wanted: str) -> dict[str, Any]:
        """One process of a document: itself, or what its graph calls `wanted`."""
        if not isinstance(document, dict):
            raise Wrong(f"{where} is no map of keys and values")
        if document.get("cwlVersion", self._version) != self._version:
            told = f"{where} is of cwlVersion {document['cwlVersion']}, and what names it of {self._version}"
            raise Wrong(told, "write all of them in one version")
        if "$graph" not in document:
            return self._resolved(document, {}, 0)
        graph = {_id(process): process for process in document["$graph"] if isinstance(process, dict)}
        if wanted not in graph:
            raise Wrong(f"$graph of {where} has no process '#{wanted}'", f"it has {', '.join(map(str, graph))}")
        shared = {key: document[key] for key in ("$namespaces",) if key in document}
        return {**shared, **self._resolved(graph[wanted], graph, 0)}

    def _resolved(self, node: Any, graph: Mapping[str, Any], depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Wrong(f"with all that it repeats the document has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise Wrong(f"the document is more than {MAX_DEPTH} levels deep, or in itself")
        if isinstance(node, list):
            return [self._resolved(item, graph, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        for directive in ("$import", "$include", "$mixin"):
            if directive in node:
                return self._directive(directive, node, graph, depth)
        resolved = {key: self._resolved(value, graph, depth + 1) for key, value in node.items() if key != "$schemas"}
        if isinstance(resolved.get("run"), str) and {"in", "out"} <= resolved.keys():
            resolved["run"] = self._reference(resolved["run"], graph, depth)
        return resolved

    def _directive(self, directive: str, node: Mapping[str, Any], graph: Mapping[str, Any], depth: int) -> Any:
        if directive == "$mixin" or len(node) > 1:
            raise Wrong(f"{directive} with other keys is not read", "write out what it stands for")
        name, fragment = self._beside(node[directive], directive)
        if directive == "$include":
            return self._files[name]
        imported = _parse(self._files[name], name)
        if fragment:
            raise Wrong(f"$import of a part of {name} is not read", "import the whole file")
        return self._within(name, lambda: self._resolved(imported, graph, depth + 1))

    def _reference(self, run: str, graph: Mapping[str, Any], depth: int) -> Any:
        if run.startswith("#"):
            if run[1:] not in graph:
                raise Wrong(f"there is no process '{run}' in the document")
            return self._within(run, lambda: self._resolved(graph[run[1:]], graph, depth + 1))
        name, fragment = self._beside(run, "run")
        document = _parse(self._files[name], name)
        return self._within(name, lambda: self._process(document, name, fragment or "main"))

    def _within(self, name: str, read: Any) -> Any:
        if name in self._open:
            raise Wrong(f"{name} names itself: {' → '.join([*self._open, name])}")
        self._open.append(name)
        try:
            return read()
        finally:
            self._open.pop()

    def _beside(self, reference: Any, what: str) -> tuple[str, str | None]:
        found = BESIDE.match(reference) if isinstance(reference, str) else None
        if found is None:
            raise Wrong(
                f"{what}: {str(reference)[:200]!r} is not read: only files that lie beside the document are",
                "put it there and name it without a path",
            )
        if found[1] not in self._files:
            raise Wrong(f"{what}: there is no file '{found[1]}' beside the document")
        return found[1], found[2]


def _id(process: Mapping[str, Any]) -> str:
    return str(process.get("id", "")).removeprefix("#")


def _parse(text: str, where: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(StringIO(text))
    except (YAMLError, ValueError) as error:
        raise Wrong(f"{where} is not YAML: {' '.join(str(error).split())[:300]}") from None


# --- valid -----------------------------------------------------------------------------------------------------
def _check(document: Mapping[str, Any], version: str) -> None:
    """Raises Wrong when the document is not valid CWL."""
    import logging

    from cwltool.context import LoadingContext
    from cwltool.load_tool import fetch_document, make_tool, resolve_and_validate_document
    from cwltool.process import get_schema
    from cwltool.workflow import default_make_tool
    from schema_salad.exceptions import SchemaSaladException
    from schema_salad.fetcher import DefaultFetcher

    logging.disable(logging.CRITICAL)
    for known in dict.fromkeys((version, "v1.2")):
        get_schema(known)

    class NoFetcher(DefaultFetcher):
        def fetch_text(self, url: str, content_types: list[str] | None = None) -> str:  # noqa: ARG002
            known = self.cache.get(url)
            if isinstance(known, str):
                return known
            raise Wrong(f"reading the document would fetch {url[:200]}")

        def check_exists(self, url: str) -> bool:
            return url in self.cache

    context = LoadingContext({"fetcher_constructor": NoFetcher, "disable_js_validation": True})
    context.construct_tool_object = default_make_tool
    context.skip_schemas = True
    context.strict = True
    try:
        copied = json.loads(json.dumps(document)) | {"id": URI}
        context, loaded, uri = fetch_document(copied, context)
        context, uri = resolve_and_validate_document(context, loaded, uri)
        make_tool(uri, context)
    except (SchemaSaladException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Wrong(_in_short(str(error)), "cwltool --validate tells more") from None


def _in_short(text: str) -> str:
    lines = [re.sub(r"^(file:///\S+?:)?(\d+:\d+:)?\s*", "", line).strip() for line in text.splitlines()]
    told = " ".join(line.replace(URI, "").replace("../../document.cwl", "") for line in lines if line)
    return f"this is not valid CWL: {told[:600]}"


if __name__ == "__main__":
    main()
