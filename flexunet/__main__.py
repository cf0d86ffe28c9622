"""`python -m flexunet`, where the entry point is not on the PATH."""

from flexunet.cli.main import main

main()
