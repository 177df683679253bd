"""python -m gemmstone: the same as the gemmstone command."""

from gemmstone.cli.main import main

main()
