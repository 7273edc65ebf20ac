"""`python -m vidtwin` is the command `vidtwin`."""

from vidtwin.command import main

main()
