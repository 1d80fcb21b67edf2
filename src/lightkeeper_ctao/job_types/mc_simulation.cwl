cwlVersion: v1.2
class: CommandLineTool
label: one run of showers and telescopes
baseCommand: dirac_prod_run

requirements:
  InitialWorkDirRequirement: {listing: $(inputs.sandbox)}
  EnvVarRequirement: {envDef: {NSHOW: $(inputs.n_shower)}}
  NetworkAccess: {networkAccess: false}
  ResourceRequirement: {coresMin: 1, ramMin: 2048}

inputs:
  words: {type: "string[]", inputBinding: {position: 0}, doc: "run numbers, telescopes, moon, and what is simulated"}
  n_shower: {type: string, doc: showers of the run}
  sandbox: {type: "File[]", doc: files laid beside the program under their own names}

outputs:
  data: {type: "File[]", outputBinding: {glob: ["Data/*.simtel.zst", "Data/*.corsika.zst"]}}
  logs: {type: "File[]", outputBinding: {glob: "Data/*.log_hist.tar"}}
