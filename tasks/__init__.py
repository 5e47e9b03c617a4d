"""Prefect tasks, one module a step; the parts below them do not import prefect."""
