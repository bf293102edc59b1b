"""How a process starts, prints and ends. Imports no torch."""
