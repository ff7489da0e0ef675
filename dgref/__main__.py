"""`python -m dgref` is the command line."""

from dgref.cli import main

main()
