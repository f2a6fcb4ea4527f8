"""What a job's children should be: pure functions from a job and the settings to documents."""
