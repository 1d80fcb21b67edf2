cwlVersion: v1.2
class: CommandLineTool
label: sim_telarray once more on the showers of a task
baseCommand: dirac_sim_telarray_process

requirements:
  InitialWorkDirRequirement: {listing: [$(inputs.sandbox), $(inputs.sources)]}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 2048}

inputs:
  sources: {type: "File[]", doc: showers}
  words: {type: "string[]", inputBinding: {position: 0}, doc: "what is simulated, and the systematic variation"}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

outputs:
  data: {type: "File[]", outputBinding: {glob: "Data/*.simtel.zst"}}
  logs: {type: "File[]", outputBinding: {glob: "Data/*.log_hist.tar"}}
