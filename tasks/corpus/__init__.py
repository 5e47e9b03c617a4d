"""What there is to convert and what became of it: the storage protocol. Imports neither prefect, engines nor fleet."""
