"""When the Secret of a job is written again, although nobody sees what became of it."""

from plan_scenes import Scene, applied
from vaco_operator.cluster.desired import REISSUE_SECONDS


def test_the_secret_is_written_again_for_a_learner_that_is_ready_and_does_not_answer():
    scene = Scene().running()
    scene.hear(version=6)
    assert applied(scene.after(REISSUE_SECONDS + 1).step(), "Secret") is not None
    decided = scene.after(REISSUE_SECONDS - 1).step()
    assert applied(decided, "Secret") is None
    assert decided.requeue_after <= 1
    assert applied(scene.after(2).step(), "Secret") is not None

    scene.hear(version=7)
    assert applied(scene.step(), "Secret") is None
    scene.learner_pod(ready=False)
    assert applied(scene.after(10 * REISSUE_SECONDS).step(), "Secret") is None
