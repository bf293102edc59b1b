"""MLPerf Inference's text-to-video test: its load generator drives the engine, with the cache off and on."""
