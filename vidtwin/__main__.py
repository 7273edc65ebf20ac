"""Run the command `vidtwin` by `python -m vidtwin`."""

from vidtwin.command import main

main()
