"""The histogram of lag that each update leaves in metrics.jsonl."""

import numpy as np
from vaco_learner.windows import LagWindow


def test_the_newest_batch_is_counted_by_lag_and_no_other():
    window = LagWindow()
    assert window.newest() == []
    window.add(np.array([9]), np.array([99]))
    window.add(np.array([2, 0, 2, 1, 5]), np.array([10, 20, 30, 40, 0]))
    assert window.newest() == [(0, 20), (1, 40), (2, 40), (5, 0)]
