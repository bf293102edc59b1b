"""`lockstep bench --mlperf`: runs in the shape of MLPerf Inference text-to-video, driven by its LoadGen."""
