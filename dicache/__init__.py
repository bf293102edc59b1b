"""Decides which denoise steps are skipped, and estimates what they would have computed.

A *gate* decides when to skip, an *estimator* how to estimate, a *method* is a named pair of the two, and
:class:`dicache.controller.Controller` runs one method for one request. Nothing in here knows about ranks:
a rank measures partial sums over its own tokens, someone adds them up over all ranks, and every rank
decides from the same few floats.
"""
