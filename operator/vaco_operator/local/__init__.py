"""A VACOJob on this machine: its learner and actors as child processes, its state in a folder."""
