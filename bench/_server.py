"""The API of an instance on a database that a benchmark made, in a process of its own: until its input ends."""

import sys
from pathlib import Path

from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

if __name__ == "__main__":
    home, database_url = sys.argv[1:]
    with Instance(Settings(home=Path(home), database_url=database_url, port=0), work=False) as instance:
        sys.stdout.write(instance.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()
