"""The state of a request between two steps, on disk, so that an interrupted run can be resumed."""
