cwlVersion: v1.2
class: CommandLineTool
label: one run of the simulation pipeline
baseCommand: dirac_simpipe_simulate_prod_wrapper

requirements:
  InitialWorkDirRequirement: {listing: $(inputs.sandbox)}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 2048}

inputs:
  words: {type: "string[]", inputBinding: {position: 0}, doc: "offset and run, or in a ledger the job, and the configuration"}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

outputs:
  data: {type: "File[]", outputBinding: {glob: "Data/*.simtel.zst"}}
  reduced_event_lists: {type: "File[]", outputBinding: {glob: "Data/*.hdf5"}}
  logs: {type: "File[]", outputBinding: {glob: ["Data/*.log*", "Data/*.hdata.zst"]}}
  metadata: {type: "File?", outputBinding: {glob: simulate_prod_job_metadata.yml}}
