"""The disks that results go to: whole files or none, what mounts refuse, who may read, and waiting for room."""
