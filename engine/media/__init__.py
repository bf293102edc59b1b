"""Image files in, video files out."""
