"""The learner: from arriving fragments to published weights."""
