"""The actor: environments, rollouts, and the stream that carries them to the learner."""
