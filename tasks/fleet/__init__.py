"""The workers of a run and the machines under them. Imports no prefect."""
