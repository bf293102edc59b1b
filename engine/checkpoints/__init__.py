"""The state of a request between two steps, on disk, so that a run that broke off can be resumed."""
