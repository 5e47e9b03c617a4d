"""Thin Prefect flows, one a file. No helpers here: Prefect loads each file as a top-level module."""
