"""Jobs that wait for a gang: kept on disk, so that they outlive every process. Imports neither torch nor ray."""
