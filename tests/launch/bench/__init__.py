"""Tests of `lockstep bench`."""
