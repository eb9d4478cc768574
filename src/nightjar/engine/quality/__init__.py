"""The neutral checks carried out: as predicates on each row, and as the Great Expectations gate."""
