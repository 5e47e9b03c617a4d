"""An AWS account as a place to run: the stack, and the commands that start, watch and end it."""
