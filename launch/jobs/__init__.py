"""From arguments to a checked job, and the folder from which a job is resumed."""
