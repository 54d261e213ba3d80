"""`python -m gatefold`: the same as the command `gatefold`."""

from gatefold.cli.main import main

main()
