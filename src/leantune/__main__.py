"""`python -m leantune`."""

from leantune.cli import main

main()
