"""`python -m budget.cli`."""

from budget.cli import main

main()
