cwlVersion: v1.2
class: CommandLineTool
label: ctapipe-apply-models on each file of a task
baseCommand: ctapipe-apply-models

$namespaces: {lightkeeper: "https://lightkeeper.invalid/cwl#"}
requirements:
  # The models lie beside the program, under the names by which the options know them.
  InitialWorkDirRequirement: {listing: [$(inputs.sandbox), $(inputs.models)]}
  EnvVarRequirement: {envDef: {OMP_NUM_THREADS: "1", NUMBA_NUM_THREADS: "1"}}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 1024}
hints:
  lightkeeper:JobType:
    name: CtapipeApplyModels
    transformation: ApplyModel
    extension: DL2.h5
    models:
      energy_model.pkl: ctapipe-train-energy-regressor
      classifier_model.pkl: ctapipe-train-particle-classifier
  SoftwareRequirement:
    packages:
      ctapipe: {specs: ["https://pypi.org/project/ctapipe"]}

inputs:
  source: {type: File, doc: events without what the models tell}
  output_name: string
  provenance_name: string
  log_name: string
  options: {type: "string[]", inputBinding: {position: 0}}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}
  models: {type: "File[]", doc: trained models}

arguments:
  - {position: 1, valueFrom: --input=$(inputs.source.path)}
  - {position: 1, valueFrom: --output=$(inputs.output_name)}
  - {position: 1, valueFrom: --provenance-log=$(inputs.provenance_name)}
  - {position: 1, valueFrom: --log-file=$(inputs.log_name)}

outputs:
  output: {type: File, outputBinding: {glob: $(inputs.output_name)}}
  provenance: {type: File, outputBinding: {glob: $(inputs.provenance_name)}}
  log: {type: File, outputBinding: {glob: $(inputs.log_name)}}
