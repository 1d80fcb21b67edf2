"""Tools that want a container get one from apptainer, singularity or podman; and what happens where none is."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.cwl.documents import HEAD
from tests.engines.containers import Engine

from lightkeeper import tool
from lightkeeper.domain.limits import Limits

SCRIPT = (
    "cat /image-name; cat $1; echo $LIGHT; echo secret=$SECRET_OF_HOST; cat $2/secret; (echo x >> $1) && echo written; "
    "pwd > where.txt"
)
DOCUMENT = (
    HEAD
    + """class: CommandLineTool
requirements:
  DockerRequirement: {dockerPull: 'example.org/light/tool:1.2'}
  EnvVarRequirement: {envDef: {LIGHT: bright}}
  NetworkAccess: {networkAccess: false}
baseCommand: [sh, -c, 'SCRIPT', sh]
inputs:
  file: {type: File, inputBinding: {position: 1}}
  home: {type: string, inputBinding: {position: 2}}
outputs:
  said: {type: File, outputBinding: {glob: said.txt}}
  where: {type: File, outputBinding: {glob: where.txt}}
stdout: said.txt
"""
).replace("SCRIPT", SCRIPT)


def run(folder: Path, home: Path, container: str = "needed", document: str = DOCUMENT, **more: Any) -> str:
    """Run the tool as a pilot does; what it printed."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "inputs" / "a.txt").write_text("dark\n")
    (folder / "tool.cwl").write_text(document)
    file = {"class": "File", "location": "inputs/a.txt"}
    (folder / "inputs.json").write_text(json.dumps({"file": file, "home": str(home)}))
    limits = asdict(Limits(wall_time=60))
    job = {"environment": {}, "outputs": [], "provenance_logs": [], "container": container, "limits": limits}
    log = folder / "tool.log"
    watchdogs = tool.Watchdogs()
    try:
        tool.run(job | more, folder, log, watchdogs)
    except tool.JobFailed as failure:
        failure.add_note(log.read_text() if log.exists() else "")
        raise
    finally:
        watchdogs.close()
    return (folder / "out" / "said.txt").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the host with a secret, which is also in the environment; no engine is there."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("secret\n")
    monkeypatch.setenv("SECRET_OF_HOST", "told")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CWL_SINGULARITY_CACHE", raising=False)
    if any((Path(place) / name).exists() for place in ("/usr/bin", "/bin") for name in tool.ENGINES):
        pytest.skip("there is an engine on this machine")
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["apptainer", "singularity", "podman"])
def test_a_tool_runs_in_its_image_and_sees_its_inputs_and_nothing_else(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = Engine(name, tmp_path / "engine")
    monkeypatch.setenv("PATH", f"{engine.programs}{os.pathsep}{os.environ['PATH']}")
    for n in (1, 2):
        image, first, light, secret, *others = run(tmp_path / "pilot" / f"job-{n}", home).splitlines()
        assert (image, first, light, secret) == ("example.org/light/tool:1.2", "dark", "bright", "secret=")
        assert others == [], "what lies on the host is not in the container, and inputs may not be written"
    assert tool.environment({"container": "needed"})["container engine"] == name
    assert "container engine" not in tool.environment({"container": ""})
    assert len(engine.calls("pull")) == 1, "an image is fetched once by a pilot"
    (call, _) = engine.calls("run")
    if name == "podman":
        assert {"--read-only=true", "--net=none", "--rm", "example.org/light/tool:1.2"} <= set(call)
    else:
        assert {"--contain", "--cleanenv", "--no-eval", "--net", "none"} <= set(call)
        (pulled,) = engine.calls("pull")
        assert pulled[-1] == "docker://example.org/light/tool:1.2"
        assert list((tmp_path / "pilot" / "images").glob("*.sif"))


def test_software_that_is_declared_to_be_an_image_runs_in_that_image(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = Engine("podman", tmp_path / "engine")
    monkeypatch.setenv("PATH", f"{engine.programs}{os.pathsep}{os.environ['PATH']}")
    document = DOCUMENT.replace("  DockerRequirement", "  # ", 1)
    software = {"kind": "container", "place": "example.org/declared:7", "name": "light 7"}
    said = run(tmp_path / "pilot" / "job-1", home, "", document, software=software)
    assert said.startswith("example.org/declared:7\n")


def test_where_no_engine_is_a_needed_container_is_an_error_that_says_so(home: Path, tmp_path: Path):
    with pytest.raises(tool.JobFailed) as failure:
        run(tmp_path / "job", home)
    assert failure.value.minor == "No container engine"
    assert failure.value.application == "the job needs a container; none of apptainer, singularity, podman is here"


def test_where_no_engine_is_a_wanted_container_is_done_without(home: Path, tmp_path: Path):
    required = "  DockerRequirement: {dockerPull: 'example.org/light/tool:1.2'}\n"
    hinted = DOCUMENT.replace(required, "").replace("cat /image-name", "true")
    hinted += "hints: {DockerRequirement: {dockerPull: 'example.org/light/tool:1.2'}}\n"
    said = run(tmp_path / "job", home, "wanted", hinted).splitlines()
    assert said[:2] == ["dark", "bright"]
