"""A toy observatory: nights of DL0 files as the array control system hands them over, good and damaged.

The files are real in form (tables, protobuf columns, checksums, names, places, triggers) and toys in content.
`simulate_night` makes gaussian showers in the camera of the large telescopes, which ctapipe reads and reconstructs; no
physics claim may be made from them. `stamp_night` makes any number of files of any size in little time.
"""

from lightkeeper_ctao.simulate.handing_in import HandedIn, hand_in, hand_in_runs
from lightkeeper_ctao.simulate.night import NightFile, NightManifest, simulate_night
from lightkeeper_ctao.simulate.places import DELIVERY, MANIFEST, TRIGGER
from lightkeeper_ctao.simulate.stamped import NightPlan, Stamped, stamp_night

__all__ = [
    "DELIVERY",
    "MANIFEST",
    "TRIGGER",
    "HandedIn",
    "NightFile",
    "NightManifest",
    "NightPlan",
    "Stamped",
    "hand_in",
    "hand_in_runs",
    "simulate_night",
    "stamp_night",
]
