"""When to skip a denoise step, and how to estimate what it would have given.

A *gate* answers when, an *estimator* answers how, a *method* is a named pair of the two, and
:class:`dicache.controller.Controller` runs one method for one request. Nothing in here knows about ranks:
a rank measures partial sums over its own tokens, someone adds them up over all ranks, and every rank
decides from the same few floats.
"""
