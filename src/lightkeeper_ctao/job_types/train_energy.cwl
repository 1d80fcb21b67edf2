cwlVersion: v1.2
class: CommandLineTool
label: ctapipe-train-energy-regressor on the file of a task
baseCommand: ctapipe-train-energy-regressor

$namespaces: {lightkeeper: "https://lightkeeper.invalid/cwl#"}
requirements:
  InitialWorkDirRequirement: {listing: $(inputs.sandbox)}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 1024}
hints:
  lightkeeper:JobType:
    name: CtapipeTrainEnergy
    transformation: Training
    extension: energy.pkl
    without: [particle, split, runNumber, obs_id]
  SoftwareRequirement:
    packages:
      ctapipe: {specs: ["https://pypi.org/project/ctapipe"]}

inputs:
  source: {type: File, doc: merged events of the particles that the energy is learned from}
  output_name: string
  provenance_name: string
  log_name: string
  options: {type: "string[]", inputBinding: {position: 0}}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

arguments:  # after the options, so that an option without its value cannot swallow one of them
  - {position: 1, valueFrom: --input=$(inputs.source.path)}
  - {position: 1, valueFrom: --output=$(inputs.output_name)}
  - {position: 1, valueFrom: --provenance-log=$(inputs.provenance_name)}
  - {position: 1, valueFrom: --log-file=$(inputs.log_name)}

outputs:
  output: {type: File, outputBinding: {glob: $(inputs.output_name)}}
  provenance: {type: File, outputBinding: {glob: $(inputs.provenance_name)}}
  log: {type: File, outputBinding: {glob: $(inputs.log_name)}}
