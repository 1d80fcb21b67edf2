"""What is known of a step's products before any is made: their metadata, as the query that finds them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import MOON
from lightkeeper_ctao.step import Step

SPECIAL: Final = ("Any", "Missing")
INHERITED: Final = ("array_layout", "site", "phiP", "thetaP", "particle", "sct", "view_cone", "systematics")
INHERITED_BY_FILE: Final = ("nsb", "div_ang", "split")
"""What a product has from its input. With one value in the query it is known here; others the job copies."""

R1: Final = -1
LAYOUT_WITH_SCTS: Final = "_scts"


def known_products(step: Step, query: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The query that finds the products of a step whose complete input is `query`. `before` is what is known of the
    parent's products, or the input itself: it says how often files were merged before."""
    if step.kind.name == "SimPipe":
        return _simpipe(step)
    if step.kind.without_input:
        return _simulated(step)
    values, kind = step.values, step.kind
    known = {key: query[key] for key in (*INHERITED, *INHERITED_BY_FILE, "data_level") if key in query}
    known |= {key: values[key] for key in (*INHERITED, "div_ang", "split", "data_level") if key in values}
    if "moon" in values:
        known["nsb"] = MOON[values["moon"]]
    if kind.name == "SimTelProcessing" and "sct" in values:
        known["sct"] = "True"
    if path := values.get("systematic_uncertainty_to_test"):
        known["systematics"] = "_".join(path.rstrip("/").split("/")[1:]) or path
    known |= _made_by(step)
    if kind.name == "Merging":
        merged = before.get("merged", 0)
        if not isinstance(merged, int):
            raise step.written.lacks("how often its input was merged must be one number", "like merged: 0")
        known["merged"] = merged + 1
    elif kind.name in ("CtapipeProcessing", "EvnDispProcessing"):
        known["merged"] = 0
    return known


def _made_by(step: Step) -> dict[str, Any]:
    values, kind = step.values, step.kind
    category = kind.category_of(values)
    return {
        "MCCampaign": values["MCCampaign"],
        "configuration_id": values["configuration_id"],
        f"{category}_prog": kind.program_of(values),
        f"{category}_prog_version": version_of(step),
        "outputType": kind.output_type,
    }


def version_of(step: Step) -> str:
    """The version of the program; with dual-mirror telescopes the simulations have another one."""
    version: str = step.values["version"]
    with_scts = step.kind.category == "tel_sim" and "sct" in step.values
    return f"{version}-sc" if with_scts and "-sc" not in version else version


def _simulated(step: Step) -> dict[str, Any]:
    values = step.values
    known = {
        "array_layout": values["array_layout"],
        "site": values["site"],
        "particle": values["particle"],
        "phiP": (_AZIMUTH[values["pointing_dir"]] + 180) % 360,
        "thetaP": values["zenith_angle"],
        "sct": "True" if "sct" in values else "False",
        "data_level": values.get("data_level", R1),
        "nsb": _one_or_many([MOON[moon] for moon in values["moon"]]),
    }
    if "div_ang" in values:
        known["div_ang"] = _one_or_many(values["div_ang"])
    return known | _made_by(step)


_AZIMUTH: Final = {"North": 0.0, "East": 90.0, "South": 180.0, "West": 270.0}


def _simpipe(step: Step) -> dict[str, Any]:
    """Of a ledger of jobs nothing is known before they run but who made the files."""
    config = step.values["simpipe_config"]["read"]
    known: dict[str, Any] = {"data_level": step.values.get("data_level", R1)} | _made_by(step)
    if "job_grid_file" in config:
        return known
    return known | {
        "array_layout": config["array_layout_name"],
        "site": config["site"],
        "particle": config["primary"],
        "phiP": round((config["azimuth_angle"] + 180) % 360, 2),
        "thetaP": config["zenith_angle"],
        "sct": "True" if LAYOUT_WITH_SCTS in config["array_layout_name"] else "False",
        "model_version": _one_or_many(config["model_version"]),
    }


def _one_or_many(values: list[Any]) -> Any:  # JSON of any shape
    return values[0] if len(values) == 1 else {"in": values}


# --- conditions as sets of values ------------------------------------------------------------------------------
def values_of(condition: Any) -> list[Any] | None:  # JSON of any shape
    """The values that a condition allows, when they are listed."""
    match condition:
        case None | "Any":
            return None
        case {"in": list() as values} if len(condition) == 1:
            return values
        case {"=": value} if len(condition) == 1:
            return [value]
        case dict():
            return None
        case _:
            return [condition]


def single(condition: Any) -> Any:  # JSON of any shape
    """The value that a condition amounts to, when it is one."""
    values = values_of(condition)
    return values[0] if values is not None and len(values) == 1 and values[0] not in SPECIAL else None


def offers(products: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether products may be what is asked for: nothing that is known of them contradicts it."""
    for key, condition in asked.items():
        wanted, had = values_of(condition), values_of(products.get(key))
        if wanted is not None and had is not None and not any(value in had for value in wanted):
            return False
    return True


def either(values: Iterable[Any]) -> str:
    """Values in words."""
    return " or ".join(f"'{printable(str(value))}'" for value in values)
