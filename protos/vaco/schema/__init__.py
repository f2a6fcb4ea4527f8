"""The parts of the VACOJob, one module per part of the manifest; `vaco.job` re-exports them."""
