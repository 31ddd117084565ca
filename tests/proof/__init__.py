"""The instruments that show that the engine is right. `python -m tests.proof --help`; see README.md beside this."""
