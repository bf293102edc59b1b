"""Proves the engine on the machine at hand: `lockstep check`."""
