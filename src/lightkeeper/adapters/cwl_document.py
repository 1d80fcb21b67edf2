"""A CWL document in one plain form, whichever of its many spellings it has. It was found valid before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lightkeeper.domain.errors import Invalid

Json = Any
FILE, DIRECTORY, OTHER = "File", "Directory", "other"


def named(value: Json) -> dict[str, dict[str, Any]]:
    """Entries that are a map by id, or a list with ids: inputs, outputs, steps, and what a step takes in."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {local(key): _entry(item) for key, item in entries.items()}
    listed = cast("Sequence[Any]", value or [])
    return {local(item["id"] if isinstance(item, Mapping) else item): _entry(item) for item in listed}


def _entry(item: Json) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(cast("Mapping[str, Any]", item))
    return {"type": item, "source": item}


def by_class(value: Json) -> dict[str, dict[str, Any]]:
    """Requirements or hints, which are a map or a list, by their classes."""
    if isinstance(value, Mapping):
        return {str(key): dict(item or {}) for key, item in cast("Mapping[str, Any]", value).items()}
    return {str(item["class"]): dict(item) for item in cast("Sequence[Any]", value or [])}


def local(name: Json) -> str:
    """The last part of an id: '#main/sort/in' is 'in'."""
    return str(name).rpartition("#")[2].rpartition("/")[2]


def as_list(value: Json) -> list[Any]:
    """One or several, as CWL has it in many places."""
    if value is None:
        return []
    return list(cast("Iterable[Any]", value)) if isinstance(value, list) else [value]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a type is for us: files, directories or anything else; in how many lists; and whether it may be left out."""

    base: str
    depth: int = 0
    optional: bool = False
    hidden: bool = False
    """Files are within records, where they cannot be told from values."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file, or lists of them."""
        return self.base == FILE


def shape(kind: Json) -> Shape:
    """The shape of a type."""
    match kind:
        case str():
            if kind.endswith("?"):
                inner = shape(kind[:-1])
                return Shape(inner.base, inner.depth, True, inner.hidden)
            if kind.endswith("[]"):
                inner = shape(kind[:-2])
                return Shape(inner.base, inner.depth + 1, False, inner.hidden)
            name = kind.rpartition("#")[2]
            return Shape({"File": FILE, "stdin": FILE, "stdout": FILE, "stderr": FILE}.get(name, _directory(name)))
        case list():
            return _union([shape(item) for item in cast("list[Any]", kind) if item != "null"], "null" in kind)
        case {"type": "array"}:
            inner = shape(cast("Any", kind)["items"])
            return Shape(inner.base, inner.depth + 1, False, inner.hidden)
        case {"type": "record"}:
            fields = named(cast("Any", kind).get("fields"))
            return Shape(OTHER, hidden=any(_has_files(shape(field["type"])) for field in fields.values()))
        case {"type": dict() | list() as inner}:
            return shape(cast("Any", inner))
        case {"type": str() as inner}:
            return shape(inner)
        case _:
            return Shape(OTHER)


def _directory(name: str) -> str:
    return DIRECTORY if name == DIRECTORY else OTHER


def _has_files(found: Shape) -> bool:
    return found.hidden or found.base != OTHER


def _union(kinds: list[Shape], optional: bool) -> Shape:
    files = [kind for kind in kinds if _has_files(kind)]
    first = (files or kinds or [Shape(OTHER)])[0]
    return Shape(first.base, first.depth, optional, first.hidden)


def check_supported(document: Mapping[str, Any]) -> None:
    """Raises Invalid that names the feature of CWL which cannot be run here."""
    for process in _processes(document):
        if process.get("class") == "Operation":
            raise Invalid("CWL feature 'Operation' is not supported: it says nothing that could be run")
        for kind, told in by_class(process.get("requirements")).items():
            _check_requirement(kind, told)


_KNOWN = {
    "DockerRequirement", "EnvVarRequirement", "InitialWorkDirRequirement", "InlineJavascriptRequirement",
    "LoadListingRequirement", "MultipleInputFeatureRequirement", "NetworkAccess", "ResourceRequirement",
    "ScatterFeatureRequirement", "SchemaDefRequirement", "ShellCommandRequirement", "SoftwareRequirement",
    "StepInputExpressionRequirement", "SubworkflowFeatureRequirement", "ToolTimeLimit", "WorkReuse",
}  # fmt: skip
_DOCKER = ("dockerPull", "dockerImageId", "dockerOutputDirectory", "class")


def _check_requirement(kind: str, told: Mapping[str, Any]) -> None:
    if kind not in _KNOWN:
        why = {
            "InplaceUpdateRequirement": ": inputs are never changed here",
        }.get(kind, "; as a hint it would be left out")
        raise Invalid(f"CWL feature '{kind}' is not supported{why}")
    if kind == "DockerRequirement" and (others := sorted(set(told) - set(_DOCKER))):
        raise Invalid(
            f"CWL feature 'DockerRequirement.{others[0]}' is not supported",
            hint="put the image into a registry, and name it with dockerPull",
        )


def _processes(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield document
    for step in named(document.get("steps")).values():
        yield {"requirements": step.get("requirements")}
        if isinstance(step.get("run"), Mapping):
            yield from _processes(step["run"])
