"""Where the array control system puts its files, and what their names say.

    /<vo>/<scope>/<level>/<array element or ARRAY>/<user>[/<program>]/<product type>/<YYYY>/<MM>/<DD>/<name>
    /ctao/acada/DL0/LSTN-01/ctao-acada-n/acada-adh/events/2026/03/14/TEL001_SDH001_20260314T210023_SBID…

The date folder is the evening: an observing night begins at noon, local time, and is called after that day. What the
path and the name say together is told as the product type, level/division/association/type (products.py).
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from lightkeeper.domain.names import printable
from lightkeeper_ctao.products import LEVELS

VO = "ctao"
NORTH, SOUTH = "CTAO-North", "CTAO-South"
ARRAY = "ARRAY"
PRODUCT_TYPES = ("events", "triggers", "monitoring", "service")

# (prefix, site, id of number 1, how many): telescopes as approved for construction, then calibration devices.
_ELEMENTS = (
    ("LSTN", NORTH, 1, 4),
    ("MSTN", NORTH, 5, 9),
    ("RLDN", NORTH, 20, 1),
    ("STPN", NORTH, 21, 1),
    ("MSPN", NORTH, 22, 1),
    ("ILLN", NORTH, 23, 2),
    ("CEIN", NORTH, 25, 1),
    ("WSTN", NORTH, 26, 3),
    ("ASCN", NORTH, 29, 1),
    ("DUSN", NORTH, 30, 1),
    ("LISN", NORTH, 31, 1),
    ("LSTS", SOUTH, 101, 2),
    ("MSTS", SOUTH, 105, 14),
    ("SSTS", SOUTH, 119, 37),
    ("CEIS", SOUTH, 169, 1),
    ("RLDS", SOUTH, 170, 2),
    ("STPS", SOUTH, 172, 2),
    ("MSPS", SOUTH, 174, 1),
    ("ILLS", SOUTH, 175, 4),
    ("WSTS", SOUTH, 179, 3),
    ("ASCS", SOUTH, 182, 1),
    ("DUSS", SOUTH, 183, 1),
)
_TELESCOPES = ("LST", "MST", "SST")
_NONE_YET = ("SCTS", "LISS", "MSTx")  # names that are set aside for what does not stand yet, or was a prototype
_CONTENTS = {"SHOWER": "AirShower", "MUON": "MuonCandidate", "CALIB": "Calibration"}
_SITE_OF_USER = {"n": NORTH, "north": NORTH, "s": SOUTH, "south": SOUTH}

_CLOCKS = {NORTH: "Atlantic/Canary", SOUTH: "America/Santiago"}
_NOON = timedelta(hours=12)
_MAX_SCOPE = 25

_NAME = re.compile(
    r"(?P<owner>TEL|ACE|SUB)(?P<owner_id>\d{1,9})"
    r"_(?P<source>[A-Z]{1,16})(?P<source_id>\d{1,9})"
    r"_(?P<start>\d{8}T\d{6})"
    r"(?:_SBID(?P<sb_id>\d{1,20}))?"
    r"(?:_OBSID(?P<obs_id>\d{1,20}))?"
    r"(?:_(?P<local_run>\d{1,20}))?"
    r"(?:_(?P<stream>TEL|SUBARRAY|SUB|ARRAY|ARR))?"
    r"(?:_(?P<content>SHOWER|MUON|CALIB|CAL))?"
    r"(?:_CHUNK(?P<chunk>\d{1,9}))?"
    r"\.fits(?:\.fz)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ArrayElement:
    """One telescope or device: name, number in data, site."""

    name: str
    ae_id: int
    site: str

    @property
    def is_telescope(self) -> bool:
        """Whether it is a telescope and not a calibration or environment device."""
        return self.name.startswith(_TELESCOPES)


ELEMENTS = {
    f"{prefix}-{number:02d}": ArrayElement(f"{prefix}-{number:02d}", first + number - 1, site)
    for prefix, site, first, count in _ELEMENTS
    for number in range(1, count + 1)
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What path and name of one delivered file say. `site` is empty when they do not tell it.

    `owner` is TEL, ACE or SUB and `owner_id` the number of that telescope, auxiliary element or subarray.
    `stream` is TEL, SUBARRAY or ARRAY, `content` SHOWER, MUON or CALIB; what the name leaves out is None.
    """

    vo: str
    scope: str
    level: str
    array_element: str
    user: str
    program: str
    product_type: str
    night: date
    site: str
    owner: str
    owner_id: int
    source: str
    source_id: int
    start: datetime
    sb_id: int | None
    obs_id: int | None
    local_run: int | None
    stream: str | None
    content: str | None
    chunk_id: int | None

    @property
    def product(self) -> str | None:
        """The product type, as the observatory's data model writes it; None when path and name do not tell it."""
        if self.product_type == "events" and self.owner == "TEL":
            return f"{self.level}/Event/Telescope/{_CONTENTS[self.content]}" if self.content in _CONTENTS else None
        if self.product_type == "triggers" and self.owner == "SUB":
            return f"{self.level}/Event/Subarray/{'TelescopeTriggers' if self.stream == 'TEL' else 'Trigger'}"
        return None

    @property
    def tel_id(self) -> int | None:
        """Number of the telescope, when the file is of one telescope."""
        return self.owner_id if self.owner == "TEL" else None

    @property
    def subarray_id(self) -> int | None:
        """Number of the subarray, when the file is of a subarray."""
        return self.owner_id if self.owner == "SUB" else None


def parse_delivery(path: str) -> tuple[Delivery | None, list[str]]:
    """What `path`, below the interface directory and beginning with '/', says; and all that is wrong with it.

    None when the path has not the shape of the layout. A Delivery with problems must not be ingested.
    """
    parts = path.split("/")[1:]
    problems: list[str] = []
    if parts and parts[0] != VO:
        problems.append(f"the path must start with /{VO}/, not /{printable(parts[0])}/")
    if not path.startswith("/") or len(parts) not in (10, 11):
        problems.append(
            f"'{printable(path)}' is outside the directory layout: it has {len(parts)} parts, not 10 or 11 "
            "(/vo/scope/level/element/user[/program]/type/year/month/day/name)"
        )
        return None, problems
    vo, scope, level, element, user = parts[:5]
    program = parts[5] if len(parts) == 11 else ""
    product_type, year, month, day, name = parts[-5:]

    if len(scope) > _MAX_SCOPE:
        problems.append(f"the scope '{printable(scope)}' has {len(scope)} characters; it may have {_MAX_SCOPE}")
    night = _night(year, month, day, problems)
    match = _NAME.fullmatch(name)
    if not match:
        problems.append(f"the name '{printable(name)}' does not follow the pattern TEL001_SDH001_<time>_SBID…_OBSID…")
    start = _start(match["start"], problems) if match else None
    if level not in LEVELS:
        problems.append(f"'{printable(level)}' is not a data level")
    if product_type not in PRODUCT_TYPES:
        problems.append(f"'{printable(product_type)}' is not a product type; known are {', '.join(PRODUCT_TYPES)}")
    site = _site(element, user, problems)
    if night is None or match is None or start is None:
        return None, problems

    delivery = Delivery(
        vo=vo,
        scope=scope,
        level=level,
        array_element=element,
        user=user,
        program=program,
        product_type=product_type,
        night=night,
        site=site,
        owner=match["owner"],
        owner_id=int(match["owner_id"]),
        source=match["source"],
        source_id=int(match["source_id"]),
        start=start,
        sb_id=_number(match["sb_id"]),
        obs_id=_number(match["obs_id"]),
        local_run=_number(match["local_run"]),
        stream={"SUB": "SUBARRAY", "ARR": ARRAY}.get(match["stream"], match["stream"]),
        content="CALIB" if match["content"] == "CAL" else match["content"],
        chunk_id=_number(match["chunk"]),
    )
    return delivery, problems + _contradictions(delivery)


def night_of(moment: datetime, site: str) -> date:
    """The observing night that a moment belongs to: it lasts from noon to noon on the site's clocks."""
    return (moment.astimezone(_clock(site)) - _NOON).date()


def night_of_path(path: str) -> str:
    """The observing night of the date folders that a file lies in, whatever else is wrong with its path; or empty."""
    parts = path.split("/")
    if len(parts) < 4:
        return ""
    year, month, day = parts[-4:-1]
    night = _night(year, month, day, [])
    return night.isoformat() if night else ""


def in_night(moment: datetime, night: date, site: str) -> bool:
    """Whether `moment` belongs to the observing night there; at either site, when it is not known which."""
    return any(night_of(moment, one) == night for one in ([site] if site in _CLOCKS else _CLOCKS))


@cache
def _clock(site: str) -> ZoneInfo:
    return ZoneInfo(_CLOCKS[site])


def _night(year: str, month: str, day: str, problems: list[str]) -> date | None:
    if re.fullmatch(r"\d{4}/\d\d/\d\d", f"{year}/{month}/{day}", re.ASCII):
        try:
            night = date(int(year), int(month), int(day))
        except ValueError:
            pass
        else:
            if 2000 <= night.year < 2200:
                return night
    problems.append(f"'{printable(f'{year}/{month}/{day}')}' is not a date folder (YYYY/MM/DD)")
    return None


def _start(stamp: str, problems: list[str]) -> datetime | None:
    try:
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    except ValueError:
        problems.append(f"the time '{stamp}' in the name does not exist")
        return None


def _site(element: str, user: str, problems: list[str]) -> str:
    of_user = _SITE_OF_USER.get(user.rpartition("-")[2], "")
    if element == ARRAY:
        if not of_user:
            problems.append(f"the folder '{printable(user)}' does not tell the site: it lacks -n, -north, -s or -south")
        return of_user
    known = ELEMENTS.get(element)
    if known is None:
        problems.append(f"'{printable(element)}' is not an array element of the observatory{_those(element)}")
        return of_user
    if of_user and of_user != known.site:
        problems.append(f"{element} is at {known.site}, but the folder '{printable(user)}' says {of_user}")
    return known.site


def _those(element: str) -> str:
    """Which elements there are of the kind that somebody seems to mean."""
    prefix = element.partition("-")[0]
    there = [name for name in ELEMENTS if name.startswith(f"{prefix}-")]
    if there:
        return f"; there {'is' if len(there) == 1 else 'are'} {' to '.join(dict.fromkeys((there[0], there[-1])))}"
    return f"; no {prefix} stands yet" if prefix in _NONE_YET else ""


def _contradictions(delivery: Delivery) -> list[str]:
    problems: list[str] = []
    known = ELEMENTS.get(delivery.array_element)
    if known and delivery.owner == "SUB":
        problems.append(f"a file of a subarray lies below {ARRAY}, not below {known.name}")
    elif known and delivery.owner_id != known.ae_id:
        problems.append(f"the name says {delivery.owner} {delivery.owner_id}, but {known.name} is number {known.ae_id}")
    if delivery.array_element == ARRAY and delivery.owner != "SUB":
        problems.append(f"{delivery.owner}{delivery.owner_id:03d} is one element; its files do not lie below {ARRAY}")
    if delivery.product_type == "triggers" and delivery.owner != "SUB":
        problems.append(f"the folder 'triggers' holds files of subarrays, the name says {delivery.owner}")
    if delivery.product_type == "events" and delivery.owner == "SUB":
        problems.append("the folder 'events' holds files of telescopes, the name says SUB")
    if not in_night(delivery.start, delivery.night, delivery.site):
        problems.append(
            f"the name's time {delivery.start:%Y-%m-%dT%H:%M:%S} is not in the folder's night, {delivery.night}"
        )
    return problems


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None
