cwlVersion: v1.2
class: CommandLineTool
label: ctapipe-train-particle-classifier on the two files of a task
baseCommand: ctapipe-train-particle-classifier

requirements:
  InitialWorkDirRequirement: {listing: $(inputs.sandbox)}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 1024}
hints:
  SoftwareRequirement:
    packages:
      ctapipe: {specs: ["https://pypi.org/project/ctapipe"]}

inputs:
  signal: {type: File, doc: merged events of gammas}
  background: {type: File, doc: merged events of the other particles}
  output_name: string
  provenance_name: string
  log_name: string
  options: {type: "string[]", inputBinding: {position: 0}}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

arguments:
  - {position: 1, valueFrom: --signal=$(inputs.signal.path)}
  - {position: 1, valueFrom: --background=$(inputs.background.path)}
  - {position: 1, valueFrom: --output=$(inputs.output_name)}
  - {position: 1, valueFrom: --provenance-log=$(inputs.provenance_name)}
  - {position: 1, valueFrom: --log-file=$(inputs.log_name)}

outputs:
  output: {type: File, outputBinding: {glob: $(inputs.output_name)}}
  provenance: {type: File, outputBinding: {glob: $(inputs.provenance_name)}}
  log: {type: File, outputBinding: {glob: $(inputs.log_name)}}
