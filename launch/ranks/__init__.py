"""What one rank does, and how ranks are started on this machine."""
