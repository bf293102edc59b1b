"""What a request that was broken off leaves behind, so that it can go on where it was."""
