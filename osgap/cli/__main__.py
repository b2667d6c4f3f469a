"""`python -m osgap.cli`."""

from osgap.cli import main

main()
