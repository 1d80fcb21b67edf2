"""Metadata keys of the observatory: what readers find in files and what productions write on theirs; and the quality
figures that are watched."""

from lightkeeper.domain.catalog import KeyLevel, KeyRole, KeyType, MetaKey
from lightkeeper.domain.quality import Figure

_SET, _FILE = KeyLevel.SET, KeyLevel.FILE
_STRING, _INT, _FLOAT, _TIME, _JSON = KeyType.STRING, KeyType.INT, KeyType.FLOAT, KeyType.TIME, KeyType.JSON

KEYS: tuple[MetaKey, ...] = (
    # Both kinds of data
    MetaKey(
        "data_level",
        _INT,
        _SET,
        description="MC0 -3, R0 -2, R1 -1, DL0 0, DL1 1, DL2 2, DL3 3, DL4 4, DL5 5, DL6 6",
        role=KeyRole.LEVEL,
    ),
    MetaKey(
        "site",
        _STRING,
        _SET,
        description="where the telescopes stand: CTAO-North or CTAO-South; in simulations LaPalma or Paranal",
    ),
    MetaKey("obs_id", _INT, _SET, description="observation block", role=KeyRole.BLOCK),
    # Observations
    MetaKey("observatory", _STRING, _SET, description="who took the data, card ORIGIN"),
    MetaKey(
        "observing_night",
        _STRING,
        _SET,
        description="evening of the night, YYYY-MM-DD; a night begins at noon local time",
        role=KeyRole.NIGHT,
    ),
    MetaKey("sb_id", _INT, _SET, description="scheduling block"),
    MetaKey("stream", _STRING, _FILE, description="Telescope, Subarray or Trigger", role=KeyRole.STREAM),
    MetaKey(
        "division",
        _STRING,
        _SET,
        description="Event, Monitoring, Service, Model, Binned or Catalog",
        role=KeyRole.DIVISION,
    ),
    MetaKey("data_type", _STRING, _SET, description="event, monitoring or service"),
    MetaKey("category", _STRING, _SET, description="A real time, B next day, C final or reprocessed"),
    MetaKey("format", _STRING, _SET, description="file format"),
    MetaKey(
        "product_type", _STRING, _FILE, description="level/division/association/type: DL0/Event/Telescope/AirShower"
    ),
    MetaKey("array_element", _STRING, _FILE, description="telescope or device, or ARRAY", role=KeyRole.ELEMENT),
    MetaKey("tel_id", _INT, _FILE, description="number of the telescope", role=KeyRole.MEMBER),
    MetaKey("subarray_id", _INT, _FILE, description="number of the subarray"),
    MetaKey(
        "tel_ids",
        _JSON,
        _FILE,
        description="numbers of the telescopes whose triggers the file holds",
        role=KeyRole.MEMBERS,
    ),
    MetaKey("chunk_id", _INT, _FILE, description="place of the file in its stream, from 0", role=KeyRole.CHUNK),
    MetaKey("start_time", _TIME, _FILE, description="begin of the data, UTC"),
    MetaKey("end_time", _TIME, _FILE, description="end of the data, UTC"),
    MetaKey("n_rows", _INT, _FILE, description="rows of the long table: events or triggers"),
    # What the observatory's data model knows of products besides
    MetaKey("product_id", _STRING, _FILE, description="identifier of the product (UUID), card DATAID"),
    MetaKey("ae_class", _STRING, _FILE, description="class of the array element: TEL or ACE"),
    MetaKey("batch_id", _INT, _FILE, description="batch of the processing"),
    MetaKey("calibration_service_id", _INT, _FILE, description="run of a calibration service"),
    MetaKey("sublevel", _STRING, _SET, description="images, parameters, geometry, energy or gammaness"),
    MetaKey("target_id", _INT, _SET, description="target of the observation"),
    MetaKey("region_id", _INT, _SET, description="region of the sky"),
    MetaKey("observing_period_id", _INT, _SET, description="observing period"),
    MetaKey("lunar_cycle_id", _INT, _SET, description="lunar cycle, of an observing period"),
    MetaKey("facility", _STRING, _SET, description="CTAO or Simulated-CTAO"),
    MetaKey("particle_pdgid", _INT, _SET, description="number of the primary particle in the PDG's scheme"),
    MetaKey("data_source", _STRING, _FILE, description="what wrote the file: SDH, SWAT, …"),
    MetaKey("event_type", _STRING, _SET, description="type of the events"),
    MetaKey("rights", _STRING, _SET, description="public, secure or proprietary"),
    # Simulations and what productions make
    MetaKey("MCCampaign", _STRING, _SET, description="campaign of simulations, such as PROD6"),
    MetaKey("array_layout", _STRING, _SET, description="telescopes and their places, such as Alpha"),
    MetaKey("particle", _STRING, _SET, description="gamma, gamma-diffuse, electron, proton, helium or muon"),
    MetaKey("thetaP", _FLOAT, _SET, "deg", "zenith angle of the primary particle"),
    MetaKey("phiP", _FLOAT, _SET, "deg", "direction in which the particle flies; 180 is pointing North, 0 South"),
    MetaKey(
        "sct",
        _STRING,
        _SET,
        description="True when Schwarzschild-Couder telescopes are in the layout, or False",
    ),
    MetaKey("view_cone", _FLOAT, _SET, "deg", "half opening angle of the directions of diffuse particles"),
    MetaKey("systematics", _STRING, _SET, description="which systematic variation was simulated"),
    MetaKey("model_version", _STRING, _SET, description="version of the model of the telescopes"),
    MetaKey("catalogs", _STRING, _SET, description="catalogues in which the files are registered"),
    MetaKey("configuration_id", _INT, _SET, description="configuration of the processing"),
    MetaKey("merged", _INT, _SET, description="how often the files were merged, 0 never"),
    MetaKey("outputType", _STRING, _SET, description="Data, Log, Model or reduced_event_lists"),
    MetaKey("airshower_sim_prog", _STRING, _SET, description="program that simulated the showers"),
    MetaKey("airshower_sim_prog_version", _STRING, _SET, description="its version"),
    MetaKey("tel_sim_prog", _STRING, _SET, description="program that simulated the telescopes"),
    MetaKey("tel_sim_prog_version", _STRING, _SET, description="its version"),
    MetaKey("analysis_prog", _STRING, _SET, description="program that processed the data"),
    MetaKey("analysis_prog_version", _STRING, _SET, description="its version"),
    MetaKey("nsb", _INT, _FILE, description="light of the night sky, 1 is dark"),
    MetaKey("div_ang", _STRING, _FILE, "deg", "divergent pointing"),
    MetaKey("split", _STRING, _FILE, description="what a sample is for: train_en, train_cl, test"),
    MetaKey("dec", _FLOAT, _FILE, "deg", "declination of the pointing"),
    MetaKey("ha", _FLOAT, _FILE, "deg", "hour angle of the pointing"),
    MetaKey("runNumber", _STRING, _FILE, description="run of the simulation, eight digits"),
    MetaKey("jobID", _INT, _FILE, description="job that made the file"),
)

FIGURES: tuple[Figure, ...] = (
    Figure(
        "rows",
        "n_rows",
        files={"data_level": 0},
        low=1,
        description="events or triggers in a raw file; one without any should not have been written",
    ),
    Figure(
        "row_rate",
        "n_rows",
        per=("start_time", "end_time"),
        files={"data_level": 0, "division": "Event"},
        high=20_000,
        unit="Hz",
        description="events or triggers in a second; no camera takes more, so that the times must be wrong",
    ),
)
"""Ranges are wide: what an installation expects of its telescopes stands in its topology, under the same names."""
