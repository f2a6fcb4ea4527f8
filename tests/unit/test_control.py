"""What the training thread is told, and what is remembered of the moment it was told to stop."""

import pytest
from vaco.vital import Vitals
from vaco_learner.control import Control, StopRequestedError


@pytest.mark.parametrize(("still_for", "complains"), [(5.0, False), (11.0, True)])
def test_what_was_stuck_when_it_was_told_to_stop_stays_known_though_it_moves_again(
    still_for: float, complains: bool
) -> None:
    now = 0.0
    vitals = Vitals(10.0, str, clock=lambda: now)
    pulse = vitals.pulse("training")
    control = Control()
    control.watch(vitals.stuck)
    pulse.beat()
    now += still_for
    control.request_stop()
    pulse.beat()
    with pytest.raises(StopRequestedError):
        control.check()
    assert ("training has not moved" in control.complaint) == complains
