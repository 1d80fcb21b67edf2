cwlVersion: v1.2
class: Workflow
label: ctapipe-process on each source of a task
doc: |
  Every source gives one output, one provenance log and one log. A source is a file, or a directory together with
  the path of a file below it: readers of DL0 find the telescopes' files next to the subarray's file.

requirements:
  ScatterFeatureRequirement: {}

inputs:
  sources: {type: {type: array, items: [File, Directory]}}
  below: {type: "string[]", doc: "path below each source, with leading '/'; empty for a file"}
  own_options: {type: {type: array, items: {type: array, items: string}}, doc: options for one source only}
  output_names: string[]
  provenance_names: string[]
  log_names: string[]
  options: {type: "string[]", doc: options for every source}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

steps:
  process:
    scatter: [source, below, own_options, output_name, provenance_name, log_name]
    scatterMethod: dotproduct
    in:
      source: sources
      below: below
      own_options: own_options
      output_name: output_names
      provenance_name: provenance_names
      log_name: log_names
      options: options
      sandbox: sandbox
    out: [output, provenance, log]
    run:
      class: CommandLineTool
      baseCommand: ctapipe-process
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
            ctapipe_io_zfits: {specs: ["https://pypi.org/project/ctapipe-io-zfits"]}
      inputs:
        source: [File, Directory]
        below: string
        own_options: {type: "string[]", inputBinding: {position: 1}}
        output_name: string
        provenance_name: string
        log_name: string
        options: {type: "string[]", inputBinding: {position: 0}}
        sandbox: File[]
      arguments:
        - {position: 2, valueFrom: --input=$(inputs.source.path)$(inputs.below)}
        - {position: 2, valueFrom: --output=$(inputs.output_name)}
        - {position: 2, valueFrom: --provenance-log=$(inputs.provenance_name)}
        - {position: 2, valueFrom: --log-file=$(inputs.log_name)}
      outputs:
        output: {type: File, outputBinding: {glob: $(inputs.output_name)}}
        provenance: {type: File, outputBinding: {glob: $(inputs.provenance_name)}}
        log: {type: File, outputBinding: {glob: $(inputs.log_name)}}

outputs:
  outputs: {type: "File[]", outputSource: process/output}
  provenance: {type: "File[]", outputSource: process/provenance}
  logs: {type: "File[]", outputSource: process/log}
