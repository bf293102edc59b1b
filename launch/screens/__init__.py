"""Everything that is printed for a person."""
