cwlVersion: v1.2
class: CommandLineTool
label: evndisp on all files of a task
baseCommand: dirac_evndisp_wrapper

$namespaces: {lightkeeper: "https://lightkeeper.invalid/cwl#"}
requirements:
  # The wrapper works on the runs that lie beside it, and leaves its products in Data.
  InitialWorkDirRequirement: {listing: [$(inputs.sandbox), $(inputs.sources)]}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 2048}
hints:
  lightkeeper:JobType:
    name: EvnDispProcessing
    transformation: DataReprocessing
    package: evndisp

inputs:
  sources: {type: "File[]", doc: simulated runs}
  options: {type: "string[]", inputBinding: {position: 0}, doc: "zenith angle and night sky, like 60deg dark"}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

outputs:
  data: {type: "File[]", outputBinding: {glob: "Data/*.simtel.DL1.tar.gz"}}
  logs: {type: "File[]", outputBinding: {glob: "*.logs.tgz"}}
