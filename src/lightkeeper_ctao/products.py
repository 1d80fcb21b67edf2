"""Products of the observatory's data model: their types, and the reader of those that are FITS files.

A product type is level/division/association/type, like DL0/Event/Telescope/AirShower.
"""

from typing import BinaryIO

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import parse_lfn, printable
from lightkeeper.ports import Product
from lightkeeper_ctao.fits import Hdu, walk

LEVELS = ("R0", "R1", "DL0", "DL1", "DL2", "DL3", "DL4", "DL5", "DL6", "SIM", "SciOps")
ASSOCIATIONS = ("Array", "Subarray", "Telescope", "Region", "Target")
_OF_EVENTS = ("Event", "Monitoring", "Service")
_OF_SCIENCE = ("Model", "Binned", "Catalog")
_SCIENCE = ("DL4", "DL5", "DL6")


def parse_product_type(text: str) -> tuple[str, str, str, str]:
    """Level, division, association and type; raises Invalid with what is wrong. The list of types is open."""
    parts = text.split("/")
    if len(parts) != 4 or not all(part.isascii() and part.isalnum() for part in parts):
        raise Invalid(
            f"'{printable(text)}' is not a product type",
            hint="level/division/association/type, like DL0/Event/Telescope/AirShower",
        )
    level, division, association, kind = parts
    for word, known, what in (
        (level, LEVELS, "data level"),
        (division, (*_OF_EVENTS, *_OF_SCIENCE), "division"),
        (association, ASSOCIATIONS, "association"),
    ):
        if word not in known:
            raise Invalid(f"'{word}' is no {what}; known are {', '.join(known)}", hint=nearest(word, known))
    allowed = _OF_SCIENCE if level in _SCIENCE else _OF_EVENTS
    if division not in allowed:
        raise Invalid(f"products of level {level} are not {division}", hint=f"they are {', '.join(allowed)}")
    return level, division, association, kind


class FitsReader:
    """Reads and verifies FITS files that do not come from the array: products of jobs and of people.

    Checksums must be right where there are some; formats of partners have none. What the cards of the data model say
    becomes metadata.
    """

    def recognises(self, path: str) -> bool:
        """By the ending; whoever is asked before takes what it knows better."""
        return path.endswith((".fits", ".fits.fz"))

    def read(self, file: BinaryIO, path: str) -> Product:
        """Verify `file` in one pass and read its metadata; see ports.ProductReader."""
        walked = walk(file, sums_needed=False)
        problems = list(walked.problems)
        meta: dict[str, MetaValue] = {}
        told = next((hdu for hdu in walked.hdus if hdu.text("DATALEVL")), None)
        if told is not None:
            meta |= _meta_of_cards(told, problems)
        try:
            return Product(parse_lfn(path), walked.fixity, meta, tuple(problems))
        except Invalid as error:
            return Product(None, walked.fixity, meta, (*problems, error.message))


def _meta_of_cards(hdu: Hdu, problems: list[str]) -> dict[str, MetaValue]:
    meta: dict[str, MetaValue] = {}
    text = "/".join(hdu.text(card) or "" for card in ("DATALEVL", "DATADIV", "DATAASSO", "DATATYPE"))
    try:
        level, division, _, _ = parse_product_type(text)
        meta = {"product_type": text, "division": division}
        if level.startswith("DL"):
            meta["data_level"] = int(level[2:])
    except Invalid as error:
        problems.append(error.message)
    for card, key in (("OBS_ID", "obs_id"), ("SB_ID", "sb_id"), ("CHUNK_ID", "chunk_id")):
        number = hdu.integer(card)
        if number is not None:
            meta[key] = number
    for card, key in (("DATAID", "product_id"), ("OBSNIGHT", "observing_night"), ("RIGHTS", "rights")):
        value = hdu.text(card)
        if value:
            meta[key] = value
    return meta
