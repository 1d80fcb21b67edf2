"""Production documents: what is written is planned, and whatever is wrong is told with line and key."""

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper_ctao.marked_yaml import MAX_NODES, read_yaml
from lightkeeper_ctao.production import ProductionYaml
from lightkeeper_ctao.step_types import STEP_TYPES

DEMO = Path(__file__).parents[2] / "src" / "lightkeeper_ctao" / "demo"

COMMON = """
Common:
  MCCampaign: PROD5
  configuration_id: 7
  base_path: /ctao/prod
  version: v0.19.2
"""

PROCESS_AND_MERGE = (
    """ProdSteps:
  - ID: 1
    input_meta_query: {site: LaPalma, particle: gamma, pointing_dir: North, zenith_angle: 20, moon: dark}
    job_config:
      type: CtapipeProcessing
      data_level: 1
      output_extension: DL1.h5
      group_size: 10
  - ID: 2
    input_meta_query: {parentID: 1}
    job_config: {type: Merging, output_extension: merged.DL1.h5, group_size: 25}
"""
    + COMMON
)


SITE_X = "ProdSteps:\n  - ID: 1\n    input_meta_query: {site: X}\n"


class Beside:
    """Files that lie beside the document."""

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("_yaml", ".yaml"): content for name, content in files.items()}

    def __call__(self, name: str) -> bytes:
        if name not in self.files:
            raise NotFound(f"there is no {name}")
        return self.files[name]


def dataset_of(name):
    if name != "D":
        raise NotFound(f"there is no dataset '{name}'", hint="did you mean 'D'?")
    return {"MCCampaign": "Prod6", "site": "LaPalma", "particle": "gamma", "thetaP": {"in": [20.0, 40.0]}}


def read(text, beside=None, **how):
    return ProductionYaml(**how).read(text, sandbox=beside or Beside(), dataset=dataset_of)


def refused(text, beside=None, **how):
    with pytest.raises(Invalid) as caught:
        read(text, beside, **how)
    return f"{caught.value.message} ({caught.value.hint})"


def one_step(query="site: LaPalma", config="", kind="CtapipeProcessing", common=COMMON):
    return (
        f"ProdSteps:\n  - ID: 1\n    input_meta_query: {{{query}}}\n    job_config:\n      type: {kind}\n"
        f"      data_level: 1\n      output_extension: DL1.h5\n{config and f'      {config}'}\n{common}"
    )


def merging(number, parent, query=""):
    return (
        f"  - ID: {number}\n    input_meta_query: {{parentID: {parent}{query and ', ' + query}}}\n"
        f"    job_config: {{type: Merging, output_extension: m{number}.h5, group_size: 2}}\n"
    )


# --- what is planned ------------------------------------------------------------------------------------
@pytest.mark.feature("S1-003", "S1-007", "S1-012", "S1-016")
def test_a_document_becomes_steps_with_complete_queries():
    plan = read(PROCESS_AND_MERGE)
    process, merge = plan.steps
    assert plan.campaign == "PROD5"
    assert plan.warnings == ()
    assert (process.type, process.job_type, process.group_size, process.parent) == (
        "DataReprocessing", "CtapipeProcessing", 10, None,
    )  # fmt: skip
    assert process.query == {"site": "LaPalma", "particle": "gamma", "phiP": 180.0, "thetaP": 20.0, "nsb": 1}
    assert (merge.type, merge.name, merge.parent, merge.group_size) == ("Merging", "Merging", 1, 25)
    assert merge.query == process.body["output_meta"]


def test_a_step_says_what_its_products_will_be():
    process, merge = read(PROCESS_AND_MERGE).steps
    described = {
        "site": "LaPalma",
        "particle": "gamma",
        "phiP": 180.0,
        "thetaP": 20.0,
        "nsb": 1,
        "outputType": "Data",
    }
    made = {"MCCampaign": "PROD5", "configuration_id": 7, "data_level": 1, "analysis_prog_version": "v0.19.2"}
    assert process.body["output_meta"] == {**described, **made, "analysis_prog": "ctapipe-process", "merged": 0}
    assert merge.body["output_meta"] == {**described, **made, "analysis_prog": "ctapipe-merge", "merged": 1}


def test_the_body_is_json_and_has_all_that_a_job_needs():
    body = read(PROCESS_AND_MERGE).steps[0].body
    assert json.loads(json.dumps(body)) == body
    assert set(body) == {
        "program", "version", "options", "output_extension", "base_path", "MCCampaign", "configuration_id",
        "output_meta", "sandbox", "settings", "software",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["{in: [gamma, proton]}", None, "Any"])
def test_a_key_without_one_value_is_left_to_the_jobs_own_inputs(value):
    query = f"site: LaPalma, particle: {value}" if value else "site: LaPalma"
    assert "particle" not in read(one_step(query)).steps[0].body["output_meta"]


def test_settings_of_the_job_overrule_common_and_common_overrules_the_query():
    text = one_step("site: LaPalma, MCCampaign: OLD", "site: Paranal", common=COMMON + "  array_layout: Beta\n")
    meta = read(text).steps[0].body["output_meta"]
    assert (meta["site"], meta["MCCampaign"], meta["array_layout"]) == ("Paranal", "PROD5", "Beta")
    assert read(one_step("site: X", "MCCampaign: OWN")).steps[0].body["MCCampaign"] == "OWN"


def test_where_and_how_wide_a_step_runs_is_kept():
    text = one_step(config="destination: CTAO.PIC.es\n      nb_processors: 4\n      group_by: array_layout, particle")
    step = read(text).steps[0]
    assert (step.sites, step.processors, step.group_by) == (("CTAO.PIC.es",), 4, "array_layout,particle")


def test_a_step_may_run_at_any_of_several_sites():
    text = one_step(config="destination: CTAO.PIC.es, CTAO.DESY-ZEUTHEN.de")
    assert read(text).steps[0].sites == ("CTAO.PIC.es", "CTAO.DESY-ZEUTHEN.de")
    for wrong in ("CTAO.PIC.es, CTAO.PIC.es", "a b/c", "[A, B]"):
        with pytest.raises(Invalid, match="line 8, key 'destination' of step 1"):
            read(one_step(config=f"destination: {wrong}"))


def test_what_the_jobs_of_a_step_may_use_is_kept():
    told = "wall_time: 3600\n      max_memory: 4000\n      max_disk: 20000\n      max_processes: 9"
    limits = {"wall_time": 3600, "memory": 4_000_000_000, "disk": 20_000_000_000, "processes": 9}
    assert read(one_step(config=told)).steps[0].limits == limits
    assert "max_memory" in refused(one_step(config="max_memory: 4 GB"))


def test_a_step_may_have_a_name_of_its_own():
    assert read(one_step().replace("- ID: 1", "- ID: 1\n    name: dl0_to_dl1")).steps[0].name == "dl0_to_dl1"


@pytest.mark.parametrize("written", ["ctapipeprocessing", "CTAPIPEPROCESSING", "CtapipeProcessing"])
def test_the_case_of_a_type_does_not_matter(written):
    assert read(one_step(kind=written)).steps[0].job_type == "CtapipeProcessing"


@pytest.mark.parametrize("nothing", ["", "null", "~", "0"])
def test_nothing_null_and_zero_mean_that_there_is_no_parent(nothing):
    assert read(one_step(f"parentID: {nothing}, site: LaPalma")).steps[0].parent is None


def test_operators_go_through_to_the_catalogue():
    query = read(one_step('thetaP: {"<": 40, ">=": 20}, site: {nin: [X]}, split: Missing, sct: true')).steps[0].query
    assert query == {"thetaP": {"<": 40, ">=": 20}, "site": {"nin": ["X"]}, "split": "Missing", "sct": "True"}


def test_translated_keys_are_translated_inside_operators_too():
    query = read(one_step("moon: {in: [dark, half]}, div_ang: 0.0022, zenith_angle: {in: [20, 40]}")).steps[0].query
    assert query == {"nsb": {"in": [1, 5]}, "div_ang": "0.0022", "thetaP": {"in": [20.0, 40.0]}}


def test_an_empty_condition_is_no_condition():
    assert read(one_step("site: LaPalma, particle: ")).steps[0].query == {"site": "LaPalma"}


# --- parents and children -------------------------------------------------------------------------------
def test_a_parent_is_found_by_its_number_even_with_gaps_and_in_any_order():
    first = one_step().partition("Common")[0].replace("ID: 1", "ID: 3").removeprefix("ProdSteps:\n")
    text = "ProdSteps:\n" + merging(20, 7) + merging(7, 3) + first + COMMON
    assert [(step.number, step.parent) for step in read(text).steps] == [(3, None), (7, 3), (20, 7)]


def test_ten_and_more_steps_stay_in_the_order_of_their_numbers():
    numbers = list(range(2, 14))
    random.Random(1).shuffle(numbers)
    text = one_step().partition("Common")[0] + "".join(merging(n, n - 1) for n in numbers) + COMMON
    plan = read(text)
    assert [step.number for step in plan.steps] == list(range(1, 14))
    assert plan.steps[-1].body["output_meta"]["merged"] == 12


def test_conditions_of_one_child_do_not_reach_the_other():
    text = one_step("site: LaPalma, moon: {in: [dark, half]}").partition("Common")[0]
    plan = read(text + merging(2, 1, "moon: half") + merging(3, 1) + merging(4, 1, "moon: dark") + COMMON)
    assert [step.query["nsb"] for step in plan.steps] == [{"in": [1, 5]}, 5, {"in": [1, 5]}, 1]


@pytest.mark.feature("S1-018", "S1-079")
def test_each_merging_counts_one_more():
    text = one_step().partition("Common")[0] + merging(2, 1) + merging(3, 2) + COMMON
    plan = read(text)
    assert plan.steps[2].query["merged"] == 1
    assert [step.body["output_meta"].get("merged") for step in plan.steps] == [0, 1, 2]


def test_a_merging_without_parent_counts_from_its_own_query():
    plan = read("ProdSteps:\n" + merging(1, "", "site: X, merged: 3") + COMMON)
    assert plan.steps[0].body["output_meta"]["merged"] == 4


def test_a_child_that_asks_for_what_its_parent_never_makes_is_refused():
    text = (
        one_step("site: LaPalma, particle: gamma").partition("Common")[0] + merging(2, 1, "particle: proton") + COMMON
    )
    assert "line 11, key 'particle' of step 2: asks for 'proton', but step 1 makes 'gamma'" in refused(text)


# --- the slide ------------------------------------------------------------------------------------------
SLIDE = """ProdSteps:
  - ID: 1
    input_meta_query:
      parentID:
        MCCampaign: PROD5b
        array_layout: Alpha
        site: LaPalma
        particle: gamma-diffuse
        thetaP: 20.0
        phiP: 180.0
        split: train_en
        analysis_prog: ctapipe-process
        analysis_prog_version: v0.19.2
        data_level: 2
        outputType: Data
        configuration_id: 15
        merged: 0
        moon: dark
        job_config:
          type: Merging
          version: v0.19.2
          group_size: 50
          output_extension: merged.DL2.h5
  - ID: 2
    input_meta_query:
      parentID: 1
    job_config:
      type: Merging
      version: v0.19.2
      group_size: 10000
      output_extension: alpha_train_en_merged.DL2.h5
      options: --no-dl1-images --no-true-images
      catalogs: DIRACFileCatalog
Common:
  MCCampaign: PROD5b
  configuration_id: 15
  base_path: /vo.cta.in2p3.fr/MC
"""


def corrected(slide):
    lines = slide.splitlines()
    for n in range(4, 23):
        lines[n] = lines[n][2:]
    for n in range(18, 23):
        lines[n] = lines[n][2:]
    return "\n".join(lines)


@pytest.mark.feature("S1-010", "S1-011", "S1-015", "S1-017", "S1-020", "S1-021", "S1-079")
def test_conditions_and_job_config_below_parent_id_are_read_with_a_warning_each():
    plan = read(SLIDE)
    assert plan.steps == read(corrected(SLIDE)).steps
    below, lifted = plan.warnings
    assert below.startswith("line 4, step 1: conditions below parentID")
    assert lifted.startswith("line 19, step 1: job_config inside input_meta_query")
    assert read(corrected(SLIDE)).warnings == ()
    first, second = plan.steps
    assert (first.parent, first.query["nsb"], first.query["phiP"], first.group_size) == (None, 1, 180.0, 50)
    assert (second.parent, second.group_size, second.query["merged"]) == (1, 10000, 1)
    assert second.body["options"] == ["--no-dl1-images", "--no-true-images"]
    assert second.body["output_meta"]["merged"] == 2


@pytest.mark.feature("S1-022")
def test_a_stray_key_of_the_slide_is_told():
    text = SLIDE.replace("      catalogs: DIRACFileCatalog", "      catalogs: DIRACFileCatalog\n      TP: 7")
    assert "line 34, key 'TP' of step 2: unknown key" in refused(text)


# --- what is refused ------------------------------------------------------------------------------------
@pytest.mark.feature("S1-008")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            PROCESS_AND_MERGE + "ProdStep: 1\n",
            "line 18, key 'ProdStep' of the document: unknown key (did you mean 'ProdSteps'?",
        ),
        (
            one_step() + "  configuration_ids: 3\n",
            "key 'configuration_ids' of Common: unknown key (did you mean 'configuration_id'?",
        ),
        (
            one_step(config="grup_size: 3"),
            "line 8, key 'grup_size' of step 1: unknown key (did you mean 'group_size'?",
        ),
        (
            one_step().replace("- ID: 1", "- ID: 1\n    nam: x"),
            "line 3, key 'nam' of step 1: unknown key (did you mean 'name'?",
        ),
        (
            one_step().replace("ID: 1", "Id: 1"),
            "line 2, key 'Id' of a step: unknown key (known are: ID, input_meta_query",
        ),
        (one_step().replace("ID: 1", "name: x"), "line 2, key 'ID': this step has none"),
        (
            one_step().replace("ID: 1", "ID: one"),
            "line 2, key 'ID' of a step: a whole number is needed, not 'one'",
        ),
        (one_step().replace("ID: 1", "ID: 1.5"), "a whole number is needed, not '1.5'"),
        (one_step().replace("ID: 1", "ID: true"), "a whole number is needed, not 'true'"),
        (one_step().replace("ID: 1", "ID: 0"), "must be at least 1, not 0"),
        (
            "ProdSteps:\n" + merging(1, "", "site: X") + merging(1, "", "site: X") + COMMON,
            "line 5, key 'ID': step 1 is there already, in line 2",
        ),
        (one_step("parentID: 4"), "line 3, key 'parentID' of step 1: there is no step 4 (steps are: 1)"),
        (one_step("parentID: 1"), "line 3, key 'parentID' of step 1: a step cannot be its own parent"),
        (
            "ProdSteps:\n" + merging(1, 2) + merging(2, "", "site: X") + COMMON,
            "line 3, key 'parentID' of step 1: the parent must have a smaller ID than 1, not 2",
        ),
        (one_step("parentID: first"), "a whole number is needed, not 'first'"),
        (one_step(config="group_size: 0"), "line 8, key 'group_size' of step 1: must be at least 1, not 0"),
        (one_step(config="group_size: -5"), "must be at least 1, not -5"),
        (one_step(config="group_size: many"), "a whole number is needed, not 'many'"),
        (one_step(config='group_size: "5"'), "a whole number is needed, not '5'"),
        (
            one_step(kind="CtapipeProcesing"),
            "line 5, key 'type' of step 1: unknown type 'CtapipeProcesing' (did you mean 'Ctapipe",
        ),
        (one_step(kind="MCPipe"), "unknown type 'MCPipe'"),
        (
            one_step("dataset: D, parentID: 1"),
            "line 3, key 'dataset' of step 1: a step has either a dataset or a parentID",
        ),
        (one_step("dataset: E"), "line 3, key 'dataset' of step 1: there is no dataset 'E' (did you mean 'D'?)"),
        (
            one_step("particle: [gamma, proton]"),
            "line 3, key 'particle' of step 1: a list needs an operator (particle: {in: [gamma, proton]}",
        ),
        (one_step("thetaP: {'=>': 3}"), "line 3, key 'thetaP' of step 1: unknown operator '=>'"),
        (one_step("site: {in: LaPalma}"), "operator 'in' needs a list of values"),
        (one_step("site: {}"), "a value or an operator is needed"),
        (one_step("site: {'=': [1]}"), "operator '=' needs plain values"),
        (one_step("pointing_dir: East"), "'East' is not known here"),
        (one_step("moon: bright"), "'bright' is not known here"),
        (one_step("moon: dark, nsb: 1"), "key 'nsb' of step 1: says the same as 'moon' in line 3"),
        (
            one_step("parentID: "),
            "line 2, step 1: without parentID, dataset and conditions it would take every file there is",
        ),
        (one_step(config="data_level: 9"), "key 'data_level' is given twice in one map"),
        (one_step().replace("data_level: 1", "data_level: 9"), "9 is no data level"),
        (
            one_step().replace("/ctao/prod", "ctao/prod"),
            "line 13, key 'base_path' of Common: 'ctao/prod' is not a file name",
        ),
        (one_step().replace("/ctao/prod", "/ctao/../etc"), "part '..' is not allowed"),
        (one_step().replace("DL1.h5", "../x.h5"), "cannot end a file name"),
        (one_step(config="input_limit: none"), "key 'input_limit' of step 1: a whole number is needed, not 'none'"),
        (
            one_step(config="catalogs: DIRACFileCatalogue"),
            "'DIRACFileCatalogue' is not known here (did you mean 'DIRACFi",
        ),
        (one_step(config="ctapipe_site_config: a.yml"), "unknown key (write it as an option: --config FILE"),
        (one_step(config="group_by: a,,b"), "words separated by commas"),
        (
            one_step().replace("    job_config:", "    job_confg:"),
            "key 'job_confg' of step 1: unknown key (did you mean 'job_config'?",
        ),
        ("ProdSteps: []\n" + COMMON, "line 1, key 'ProdSteps' of the document: a list of steps is needed"),
        ("ProdSteps:\n  - 5\n" + COMMON, "line 2, a step: a map of keys and values is needed"),
        (one_step(common=""), "the document has no Common"),
        ("", "the document is empty"),
        ("just text", "line 1, the document: a map of keys and values is needed"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_key(text, told):
    assert told in refused(text)


@pytest.mark.parametrize("key", ["MCCampaign", "configuration_id", "base_path", "version"])
@pytest.mark.parametrize("left", ["absent", "empty"])
def test_nothing_is_filled_in_for_a_missing_mandatory_key(key, left):
    lines = one_step().splitlines()
    at = next(n for n, line in enumerate(lines) if f"  {key}:" in line)
    lines[at] = f"  {key}:" if left == "empty" else ""
    assert f"line 2, step 1: key '{key}' is missing ({key} must be in job_config or in Common)" in refused(
        "\n".join(lines)
    )


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("CtapipeProcessing", "data_level"),
        ("CtapipeProcessing", "output_extension"),
        ("Merging", "output_extension"),
        ("Merging", "group_size"),
        ("SimPipe", "simpipe_config"),
    ],
)
def test_every_type_has_mandatory_keys_of_its_own(kind, key):
    config = "\n".join(
        f"      {name}: {value}"
        for name, value in {"data_level": 1, "output_extension": "x.h5", "group_size": 2}.items()
        if name != key
    )
    text = f"{SITE_X}    job_config:\n      type: {kind}\n{config}\n{COMMON}"
    assert f"line 2, step 1: key '{key}' is missing" in refused(text)


def test_a_type_without_a_program_is_refused():
    told = refused(one_step(), job_types=["Merging"])
    assert (
        "line 5, key 'type' of step 1: type CtapipeProcessing has no program here yet (available are: Merging" in told
    )


def test_there_are_exactly_nine_types():
    assert len(STEP_TYPES) == 9


KEYS = [
    MetaKey("site", KeyType.STRING),
    MetaKey("particle", KeyType.STRING),
    MetaKey("thetaP", KeyType.FLOAT, unit="deg"),
    MetaKey("nsb", KeyType.INT, KeyLevel.FILE),
]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            one_step("sites: LaPalma"),
            "line 3, key 'sites' of step 1: unknown metadata key 'sites' (did you mean 'site'?",
        ),
        (one_step("thetaP: steep"), "line 3, key 'thetaP' of step 1: metadata key 'thetaP' is of type float"),
        (
            one_step(config="group_by: particel"),
            "line 8, key 'group_by' of step 1: unknown metadata key 'particel' (did you mean",
        ),
    ],
)
def test_with_a_vocabulary_queries_are_checked_against_it(text, told):
    assert told in refused(text, keys=KEYS)
    assert read(one_step("site: LaPalma, moon: dark"), keys=KEYS)


# --- options and files beside the document --------------------------------------------------------------
@pytest.mark.parametrize(
    "option",
    ["--output x", "--output=x", "-o x", "-ox", "-i x", "--input=x", "--provenance-log=p", "--log-file l",
     "-l l", "--DataWriter.output_path=x", "--EventSource.input_url=x", "--Tool.log_file=x", "--input-dir=/",
     "-p x", "--EventSource.override_obs_id=3", "--ImageModifier.rng_seed=3"],
)  # fmt: skip
def test_options_that_say_what_is_read_or_written_are_refused(option):
    assert "line 8, key 'options' of step 1: option" in refused(one_step(config=f'options: "--overwrite {option}"'))


def test_options_are_split_as_a_shell_would_and_reach_no_shell():
    step = read(one_step(config="options: --max-events=3 '--X.y=a b' $(rm)")).steps[0]
    assert step.body["options"] == ["--max-events=3", "--X.y=a b", "$(rm)"]
    assert "cannot be split into words" in refused(one_step(config="options: --x 'open"))


def test_files_of_the_sandbox_are_kept_in_the_plan():
    text = one_step(config="input_sandbox: a.yaml, b.yaml\n      options: --config a.yaml -c b.yaml")
    body = read(text, Beside(a_yaml=b"x: 1\n", b_yaml="é".encode())).steps[0].body
    assert body["sandbox"] == {"a.yaml": "x: 1\n", "b.yaml": "é"}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("input_sandbox: ../a.yaml", "'../a.yaml' is not a plain file name"),
        ("input_sandbox: /etc/passwd", "'/etc/passwd' is not a plain file name"),
        ("input_sandbox: tool.cwl", "'tool.cwl' is not a plain file name"),
        ("input_sandbox: big.yaml", "'big.yaml' has 1000001 bytes"),
        ("input_sandbox: binary.yaml", "'binary.yaml' is not a text"),
        ("options: --config ../a.yaml", "'../a.yaml' is not a plain file name"),
        ("options: -c a_b.yaml -c a/b.yaml", "'a/b.yaml' and another file would both be a_b.yaml beside the job"),
    ],
)
def test_a_sandbox_holds_plain_small_texts_that_exist(config, told):
    beside = Beside(a_yaml=b"", big_yaml=b"x" * 1_000_001, binary_yaml=b"\xff\x00")
    beside.files |= {"a_b.yaml": b"", "a/b.yaml": b""}
    assert told in refused(one_step(config=config), beside)


def test_a_configuration_file_need_not_be_named_twice_and_may_lie_in_a_folder():
    beside = Beside()
    beside.files["v3/dl0.yml"] = b"x: 1"
    step = read(one_step(config="options: -c v3/dl0.yml --max-events=3 --config=v3/dl0.yml"), beside)
    body = step.steps[0].body
    assert body["sandbox"] == {"v3_dl0.yml": "x: 1"}
    assert body["options"] == ["-c", "v3_dl0.yml", "--max-events=3", "--config=v3_dl0.yml"]


def test_files_that_do_not_lie_beside_the_document_are_told_and_can_follow():
    plan = read(one_step(config="options: -c v3/dl0.yml"))
    assert plan.missing == ("line 8, key 'options' of step 1: there is no file 'v3/dl0.yml' beside the document",)


# --- slips ----------------------------------------------------------------------------------------------
def test_a_setting_that_no_step_has_is_told():
    assert read(one_step(common=COMMON + "  n_shower: 5\n")).warnings == (
        "line 15, key 'n_shower' of Common: no step of this document has such a key",
    )


def test_an_angle_that_lost_its_decimal_point_is_pointed_at():
    assert read(one_step("phiP: 0.180")).warnings == (
        "line 3, key 'phiP' of step 1: 0.18 degrees; was the point meant?",
    )


@pytest.mark.parametrize(("written", "kind"), [("2022-08-03", "date"), ("0.10", "number")])
def test_a_version_is_taken_as_it_is_written_with_a_warning_where_others_read_something_else(written, kind):
    plan = read(one_step(config=f"version: {written}"))
    assert plan.steps[0].body["version"] == written
    (warning,) = plan.warnings
    assert warning.startswith(f"line 8, key 'version' of step 1: {written} is taken as a text")
    assert f"others read a {kind}" in warning
    assert read(one_step(config=f'version: "{written}"')).warnings == ()


@pytest.mark.feature("S1-014")
def test_an_unknown_program_in_a_query_is_told_with_the_nearest_known_one():
    (warning,) = read(one_step("analysis_prog: ctape-process")).warnings
    assert "no program 'ctape-process' is known here; did you mean 'ctapipe-process'?" in warning


def test_an_option_that_the_program_does_not_have_is_told_with_the_nearest_one():
    step = merging(1, "", "site: X").replace("group_size: 2", "group_size: 2, options: --no-dll-images")
    (warning,) = read("ProdSteps:\n" + step + COMMON).warnings
    assert "ctapipe-merge has no option --no-dll-images; did you mean '--no-dl1-images'?" in warning


def test_files_of_a_campaign_of_nearly_the_same_name_are_taken_with_a_word():
    (warning,) = read(one_step("MCCampaign: PROD5b")).warnings
    assert "files of PROD5b are taken, and products will be of PROD5; is one campaign meant?" in warning
    assert read(one_step("MCCampaign: Winter")).warnings == ()


def test_a_step_that_repeats_another_is_refused_with_the_parent_that_may_be_meant():
    text = one_step().partition("Common")[0]
    text += merging(2, 1) + merging(3, 1, "particle: gamma") + merging(4, 3) + merging(5, 1).replace("m5.h5", "m2.h5")
    told = refused(text + COMMON)
    assert "key 'parentID' of step 5: the step does the same work as step 2 on the same files" in told
    assert "nothing takes what step 4 makes: is parentID: 4 meant?" in told


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_lines():
    text = one_step("moon: bright", "grup_size: 3\n      cpu_time: soon").replace("data_level: 1", "data_level: 9")
    told = refused(text).splitlines()
    assert [line.partition(":")[0].rpartition(",")[0] for line in told] == ["line 3", "line 6", "line 8", "line 9"]


def test_a_step_without_parent_waits_for_the_steps_that_make_what_it_asks_for():
    text = one_step("site: LaPalma, split: train_cl", "split: train_cl").partition("Common")[0]
    asks = "site: LaPalma, split: train_cl, analysis_prog: ctapipe-process, analysis_prog_version: v0.19.2"
    plan = read(text + merging(2, "", asks) + merging(3, "", asks.replace("train_cl", "test")) + COMMON)
    assert [step.feeders for step in plan.steps] == [(), (1,), ()]


# --- hostile text ---------------------------------------------------------------------------------------
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, f"more than {MAX_NODES} values, aliases counted at full size"),
        ("a: &a [*a]", "names nothing that is complete"),
        ("[" * 100_000, "nested deeper than 20"),
        ("{" * 100_000, "nested deeper than 20"),
        ("- " * 100_000, "nested deeper than 20"),
        ("? " * 100_000, "nested deeper than 20"),
        ("- x\n" * 200_000, f"more than {MAX_NODES} values"),
        ("x" * 1_000_001, "1000001 characters"),
        ("a: 1\na: 2", "line 2: key 'a' is given twice"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: tag"),
        ("! a", "line 1: tag"),
        ("a: 1\n---\nb: 2", "a second document begins"),
        ("? [a]\n: b", "a list or map cannot be a key"),
        ("a: 99999999999999999999", "is too large"),
        ("a: 1e999", "is too large"),
        ('a: "\\0"', "cannot be printed"),
        ('a: "\\ud800"', "cannot be printed"),
        ("a: b: c", "line 1: not YAML"),
        ("a:\n\t- b", "line 2: not YAML"),
    ],
)
def test_hostile_text_is_refused_at_once(text, told):
    began = time.process_time()
    assert told in refused(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text", ["a " * 500_000, '"' + "\\x41" * 240_000 + '"', "# x\n" * 250_000, "a: |\n" + " x\n" * 330_000]
)
def test_long_harmless_text_is_read_in_bounded_time(text):
    began = time.process_time()
    refused(text)
    assert time.process_time() - began < 4


def test_aliases_are_copies_when_they_are_used_with_measure():
    assert read_yaml("a: &x {b: [1, 2]}\nc: *x").plain() == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


def test_text_means_what_yaml_1_2_says():
    text = "[yes, 0o17, 0x1F, 012, 1e3, .5, ~, True, '1', 2022-08-03, 1_000, .inf, 12:30]"
    assert read_yaml(text).plain() == [
        "yes", 15, 31, 12, 1000.0, 0.5, None, True, "1", "2022-08-03", "1_000", ".inf", "12:30",
    ]  # fmt: skip


@given(st.text(max_size=300) | st.text(alphabet="{}[]&*!|>'\"%@`,:-?# \n\tab0.~", max_size=200))
@example("%YAML 1.1\n---\na: 08")
@example("%TAG ! tag:x,2000:\n---\n!y z")
@example("!<tag:yaml.org,2002:str> 'x'")
@example('"\\UFFFFFFFF"')
@example("&a *a")
@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_read_or_refused(text):
    try:
        read_yaml(text).plain()
    except Invalid as error:
        assert error.message.isprintable()


pieces = st.sampled_from(
    [
        *PROCESS_AND_MERGE.splitlines(keepends=True),
        "  - ID: 3\n",
        "  x: &a 1\n",
        "  y: *a\n",
        "    - [\n",
        "Common:\n",
    ]
)


@given(st.lists(pieces, max_size=25).map("".join))
@settings(max_examples=200, deadline=2000)
def test_a_document_in_any_disorder_is_planned_or_refused(text):
    try:
        assert read(text).steps
    except Invalid as error:
        assert error.message


@given(st.integers(0, len(PROCESS_AND_MERGE)), st.text(max_size=3), st.integers(0, 5))
@settings(max_examples=300, deadline=2000)
def test_a_document_with_any_typing_slip_is_planned_or_refused(at, typed, lost):
    try:
        assert read(PROCESS_AND_MERGE[:at] + typed + PROCESS_AND_MERGE[at + lost :]).steps
    except Invalid as error:
        assert error.message


# --- the demo -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "groups"), [("simulated", "array_layout,particle"), ("dl0", "obs_id")])
def test_the_documents_of_the_demo_are_in_order(name, groups):
    plan = read((DEMO / f"{name}.yaml").read_text(), lambda file: (DEMO / file).read_bytes())
    assert plan.warnings == ()
    assert [(step.job_type, step.parent) for step in plan.steps] == [
        ("CtapipeProcessing", None),
        ("Merging", 1),
    ]
    assert plan.steps[0].group_by == groups


@pytest.mark.feature("S0-043")
def test_a_step_takes_a_dataset_which_its_own_conditions_narrow_and_its_products_inherit_from():
    step = read(one_step("dataset: D, thetaP: 20")).steps[0]
    assert (step.dataset, dict(step.query)) == ("D", {"thetaP": 20})
    assert step.body["output_meta"]["site"] == "LaPalma"
    assert step.body["output_meta"]["particle"] == "gamma"
    assert step.body["output_meta"]["thetaP"] == 20
