"""`python -m gatefold`: the same door as the command `gatefold`."""

from gatefold.cli.main import main

main()
