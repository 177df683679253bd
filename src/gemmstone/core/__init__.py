"""Types, units, errors and lookup: the vocabulary every other package speaks. Depends on nothing else here."""
