"""The lag laboratory: many training runs that differ in one thing, and what can be said of them.

It stands above actor and learner and uses their rollout and their update as they are.
"""
