"""Language models: the policy, its tokenizer and its problems, for learner and actors alike."""
