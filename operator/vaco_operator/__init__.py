"""Runs a VACOJob: observe, decide, apply, one status; on this machine by the command line."""
