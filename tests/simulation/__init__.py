"""The fleet simulated: a virtual clock around the shipped supervisor, candidates, claims and ledgers."""
