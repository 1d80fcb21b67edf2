"""CWL documents with the constructs of the conformance set, written for these tests."""

from typing import Final

HEAD: Final = "cwlVersion: v1.2\n"
CAT: Final = (
    HEAD
    + """class: CommandLineTool
baseCommand: cat
inputs: {parts: {type: "File[]", inputBinding: {position: 1}}}
outputs: {whole: stdout}
stdout: whole.txt
"""
)
GREP: Final = (
    HEAD
    + """class: CommandLineTool
baseCommand: grep
inputs: {word: {type: string, inputBinding: {position: 1}}, file: {type: File, inputBinding: {position: 2}}}
outputs: {lines: stdout}
stdout: $(inputs.file.basename).lines
"""
)
OF_RAW: Final = '{"lightkeeper:Transformation": {input_query: {data_level: 0}}}'
TWO_STEPS: Final = (
    HEAD
    + f"""class: Workflow
requirements: {{ScatterFeatureRequirement: {{}}}}
hints: {OF_RAW}
inputs: {{raw: "File[]", word: {{type: string, default: light}}}}
steps:
  find: {{run: grep.cwl, scatter: file, in: {{file: raw, word: word}}, out: [lines]}}
  join: {{run: cat.cwl, in: {{parts: find/lines}}, out: [whole]}}
outputs: {{whole: {{type: File, outputSource: join/whole}}}}
"""
)
BESIDE: Final = {"grep.cwl": GREP, "cat.cwl": CAT}


def tool(body: str, **more: str) -> str:
    """A tool of a few lines."""
    return HEAD + "class: CommandLineTool\n" + body + "".join(f"{key}: {value}\n" for key, value in more.items())


RUN: Final = {
    "a list is taken apart": tool(
        'baseCommand: echo\ninputs: {words: {type: "string[]", default: [a, b], inputBinding: {prefix: -w}}}\n'
        "outputs: {out: stdout}\nstdout: out.txt\n"
    ),
    "an expression of parameters": tool(
        "baseCommand: [echo, -n]\ninputs: {n: {type: int, default: 3}}\n"
        "arguments: [$(inputs.n), $(runtime.cores)]\noutputs: {out: stdout}\nstdout: n$(inputs.n).txt\n"
    ),
    "a shell": tool(
        "requirements: {ShellCommandRequirement: {}}\nbaseCommand: []\narguments: [{shellQuote: false, valueFrom: "
        "'echo a | tr a b > made.txt'}]\ninputs: {}\noutputs: {out: {type: File, outputBinding: {glob: made.txt}}}\n"
    ),
    "javascript": tool(
        "requirements: {InlineJavascriptRequirement: {}}\nbaseCommand: echo\ninputs: {n: {type: int, default: 3}}\n"
        "arguments: [$(inputs.n * 2)]\noutputs: {out: stdout}\nstdout: double.txt\n"
    ),
    "an environment and a folder that is made before": tool(
        "requirements:\n  EnvVarRequirement: {envDef: {LIGHT: bright}}\n"
        '  InitialWorkDirRequirement: {listing: [{entryname: given.txt, entry: "word\\n"}]}\n'
        "baseCommand: [sh, -c, 'cat given.txt; echo $LIGHT']\ninputs: {}\noutputs: {out: stdout}\nstdout: out.txt\n"
    ),
    "outputs of several kinds": tool(
        "requirements: {InlineJavascriptRequirement: {}}\n"
        "baseCommand: [sh, -c, 'mkdir d; echo 1 > d/a.txt; echo 2 > d/b.txt; echo 3 > c.txt']\ninputs: {}\noutputs:\n"
        "  folder: {type: Directory, outputBinding: {glob: d}}\n"
        "  several: {type: 'File[]', outputBinding: {glob: '*.txt'}}\n"
        "  none: {type: 'File?', outputBinding: {glob: nothing}}\n"
        "  number: {type: int, outputBinding: {outputEval: '$(7)'}}\n"
    ),
    "a record and an enumeration": tool(
        "baseCommand: echo\ninputs:\n"
        "  kind: {type: {type: enum, symbols: [gamma, proton]}, default: gamma, inputBinding: {position: 1}}\n"
        "  box:\n    type: {type: record, name: box, fields: {n: {type: int, inputBinding: {prefix: -n}}}}\n"
        "    default: {n: 4}\n    inputBinding: {position: 2}\noutputs: {out: stdout}\nstdout: out.txt\n"
    ),
    "success codes": tool(
        "baseCommand: [sh, -c, 'echo x; exit 3']\nsuccessCodes: [3]\ninputs: {}\noutputs: {out: stdout}\n"
        "stdout: out.txt\n"
    ),
    "an expression tool": HEAD
    + "class: ExpressionTool\nrequirements: {InlineJavascriptRequirement: {}}\ninputs: {n: {type: int, default: 1}}\n"
    "outputs: {m: int}\nexpression: '${return {m: inputs.n + 1};}'\n",
    "an older version": tool(
        "baseCommand: echo\ninputs: {w: {type: string, default: old, inputBinding: {}}}\noutputs: {out: stdout}\n"
        "stdout: out.txt\n"
    ).replace("v1.2", "v1.0"),
    "a workflow within a workflow, as one job": HEAD
    + """class: Workflow
requirements: {SubworkflowFeatureRequirement: {}, StepInputExpressionRequirement: {}, InlineJavascriptRequirement: {}}
inputs: {n: {type: int, default: 2}}
steps:
  inner:
    in: {m: {source: n, valueFrom: $(self + 1)}}
    out: [text]
    run:
      class: Workflow
      inputs: {m: int}
      steps:
        say:
          in: {m: m}
          out: [out]
          run: {class: CommandLineTool, baseCommand: echo, inputs: {m: {type: int, inputBinding: {}}},
                outputs: {out: stdout}, stdout: said.txt}
      outputs: {text: {type: File, outputSource: say/out}}
outputs: {text: {type: File, outputSource: inner/text}}
""",
    "a graph of several processes": """cwlVersion: v1.2
$graph:
- id: main
  class: Workflow
  requirements: {ScatterFeatureRequirement: {}, MultipleInputFeatureRequirement: {}}
  inputs: {a: {type: string, default: x}, b: {type: string, default: y}}
  steps:
    say: {run: "#say", scatter: w, in: {w: {source: [a, b]}}, out: [out]}
  outputs: {texts: {type: "File[]", outputSource: say/out}}
- id: say
  class: CommandLineTool
  baseCommand: echo
  inputs: {w: {type: string, inputBinding: {}}}
  outputs: {out: stdout}
  stdout: $(inputs.w).txt
""",
}
"""Documents without files as inputs; each runs as one job."""

REFUSED: Final = {
    "Operation": HEAD + "class: Operation\ninputs: {}\noutputs: {}\n",
    "InplaceUpdateRequirement": tool(
        "requirements: {InplaceUpdateRequirement: {inplaceUpdate: true}}\nbaseCommand: x\ninputs: {}\noutputs: {}\n"
    ),
    "DockerRequirement.dockerFile": tool(
        "requirements: {DockerRequirement: {dockerFile: FROM x, dockerImageId: x}}\nbaseCommand: x\ninputs: {}\n"
        "outputs: {}\n"
    ),
    "ResourceRequirement.coresMin as an expression": tool(
        "requirements: {ResourceRequirement: {coresMin: $(inputs.n)}}\nbaseCommand: x\n"
        "inputs: {n: {type: int, default: 1}}\noutputs: {}\n"
    ),
    "secondaryFiles of an input": tool(
        'baseCommand: x\ninputs: {f: {type: File, secondaryFiles: [".idx"]}}\noutputs: {}\n', hints=OF_RAW
    ),
    "input of type Directory": tool("baseCommand: x\ninputs: {d: Directory}\noutputs: {}\n"),
    "files within records": tool(
        "baseCommand: x\ninputs: {r: {type: {type: record, name: r, fields: {f: {type: File}}}}}\noutputs: {}\n"
    ),
    "join of several streams of files": HEAD
    + f"""class: Workflow
requirements: {{ScatterFeatureRequirement: {{}}}}
hints: {OF_RAW}
inputs: {{raw: "File[]"}}
steps:
  one: {{run: copy.cwl, scatter: f, in: {{f: raw}}, out: [o]}}
  two: {{run: copy.cwl, scatter: f, in: {{f: raw}}, out: [o]}}
  both: {{run: pair.cwl, scatter: [a, b], scatterMethod: dotproduct, in: {{a: one/o, b: two/o}}, out: [o]}}
outputs: {{}}
""",
    "must be files": HEAD
    + """class: Workflow
requirements: {InlineJavascriptRequirement: {}}
inputs: {}
steps:
  count:
    run: {class: ExpressionTool, inputs: {}, outputs: {n: int}, expression: "${return {n: 1};}"}
    in: {}
    out: [n]
  say:
    run: {class: CommandLineTool, baseCommand: echo, inputs: {n: int}, outputs: {o: stdout}}
    in: {n: count/n}
    out: [o]
outputs: {}
""",
}
"""Valid documents that are refused, by what the refusal names."""

COPY: Final = tool(
    "baseCommand: cat\ninputs: {f: {type: File, inputBinding: {}}}\noutputs: {o: stdout}\nstdout: o.txt\n"
)
PAIR: Final = tool(
    "baseCommand: cat\ninputs: {a: {type: File, inputBinding: {}}, b: {type: File, inputBinding: {}}}\n"
    "outputs: {o: stdout}\nstdout: o.txt\n"
)
ALL_BESIDE: Final = BESIDE | {"copy.cwl": COPY, "pair.cwl": PAIR}
