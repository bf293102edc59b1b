"""The loaded model: where its weights are, and how long things take."""
