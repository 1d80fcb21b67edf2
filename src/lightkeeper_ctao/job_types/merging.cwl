cwlVersion: v1.2
class: CommandLineTool
label: ctapipe-merge, the files of a task to one
baseCommand: ctapipe-merge

requirements:
  InitialWorkDirRequirement: {listing: $(inputs.sandbox)}
  # One processor is what the task was given; libraries would take every one they see.
  EnvVarRequirement: {envDef: {OMP_NUM_THREADS: "1", NUMBA_NUM_THREADS: "1"}}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 1024}
hints:
  SoftwareRequirement:
    packages:
      ctapipe: {specs: ["https://pypi.org/project/ctapipe"]}

inputs:
  parts: {type: "File[]", inputBinding: {position: 2}}
  output_name: string
  provenance_name: string
  log_name: string
  options: {type: "string[]", inputBinding: {position: 0}}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

arguments:  # after the options, so that an option without its value cannot swallow a part
  - {position: 1, valueFrom: --output=$(inputs.output_name)}
  - {position: 1, valueFrom: --provenance-log=$(inputs.provenance_name)}
  - {position: 1, valueFrom: --log-file=$(inputs.log_name)}

outputs:
  output: {type: File, outputBinding: {glob: $(inputs.output_name)}}
  provenance: {type: File, outputBinding: {glob: $(inputs.provenance_name)}}
  log: {type: File, outputBinding: {glob: $(inputs.log_name)}}
