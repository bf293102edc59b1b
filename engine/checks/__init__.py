"""Everything that can be refused before a weight is loaded."""
