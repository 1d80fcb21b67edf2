"""`python -m lightkeeper` is `lightkeeper`."""

from lightkeeper.cli import main

main()
