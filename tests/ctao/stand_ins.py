"""Programs that stand in for those of the observatory's simulations, which come with its software only.

Each takes the same words as the real one, refuses others, and leaves files of the same names; in these it says how it
was called.
"""

import sys
from pathlib import Path

import zstandard

STAND_IN = '''#!{python}
# Stands in for {name}: it takes the same words, says what it was given, and leaves files of the same names.
import json, os, pathlib, shlex, struct, sys
import zstandard
told = shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]])


def leave(name, text=told):
    """Compressed data as one data object of a run, anything else as text."""
    if name.endswith('.simtel.zst'):
        content = text.encode()
        head = struct.pack('<4sIII', bytes.fromhex('378a1fd4'), 2000, 0, len(content))
        pathlib.Path('Data', name).write_bytes(zstandard.compress(head + content))
    else:
        pathlib.Path('Data', name).write_text(text)


{body}
'''
PROD_RUN = """
flags = {'--without-multipipe', '--with-half-moon', '--with-full-moon', '--with-sct', '--with-all-scts', '--sequential',
         '--instrument-random-seeds', '--divergent', '--with-magic', '--baseline'}
words = sys.argv[1:]
start = int(words[words.index('--start_run') + 1]); run = int(words[words.index('--run-number') + 1])
site, particle, pointing, zenith = words[-4:]
given = {word for word in words if word.startswith('--')} - flags - {'--start_run', '--run-number',
                                                                     '--random-mono-probability'}
assert not given, given
assert int(os.environ['NSHOW']) > 0
os.mkdir('Data')
skies = ['dark'] + ['moon'] * bool({'--with-half-moon', '--with-full-moon'} & set(words))
skies += ['fullmoon'] * ('--with-full-moon' in words)
name = f'{particle}_{zenith}deg_180deg_run{start + run}___cta-prod6-{site}'
if '--without-multipipe' in words:
    leave(f'run{start + run}_{particle}.corsika.zst')
else:
    for sky in skies:
        leave(f'{name}-{sky}.simtel.zst', f"{told} {os.environ['NSHOW']}")
        leave(f'{name}-{sky}.log_hist.tar', 'log')
"""
SIMTEL = """
os.mkdir('Data')
sky = 'fullmoon' if '--with-full-moon' in sys.argv else 'moon' if '--with-half-moon' in sys.argv else 'dark'
for shower in sorted(pathlib.Path().glob('*.corsika.zst')):
    leave(f'{shower.name.removesuffix(".corsika.zst")}_{sky}.simtel.zst')
"""
EVNDISP = """
os.mkdir('Data')
for run in sorted(pathlib.Path().glob('*.simtel.zst')):
    leave(f'{run.name.removesuffix(".zst")}.DL1.tar.gz')
"""
SIMPIPE = """
ledger = len(sys.argv) == 3
configuration = json.loads(sys.argv[1 if ledger else 3])
run = int(sys.argv[2])
os.mkdir('Data')
for end in ('simtel.zst', 'log.gz', 'hdata.zst', 'reduced_event_data.hdf5'):
    leave(f'{configuration["primary"]}_run{run:06d}_{end.replace(".", "_", 0)}.{end}')
if ledger:
    pathlib.Path('simulate_prod_job_metadata.yml').write_text(
        'runNumber: 77\\nthetaP: 40.0\\nphiP: 180.0\\narray_layout: Alpha\\nsecret: 1\\n')
"""
PROGRAMS = {
    "dirac_prod_run": PROD_RUN,
    "dirac_sim_telarray_process": SIMTEL,
    "dirac_evndisp_wrapper": EVNDISP,
    "dirac_simpipe_simulate_prod_wrapper": SIMPIPE,
}


def lay(folder: Path) -> None:
    """Put the programs into a folder, which is made."""
    folder.mkdir(parents=True)
    for name, body in PROGRAMS.items():
        (folder / name).write_text(STAND_IN.format(python=sys.executable, name=name, body=body))
        (folder / name).chmod(0o755)


def said(file: Path) -> str:
    """How the program was called that left a file."""
    content = file.read_bytes()
    return (zstandard.decompress(content)[16:] if file.name.endswith(".simtel.zst") else content).decode()
