"""VACOJobs on a Kubernetes cluster: observe, plan, apply, and one status write."""
