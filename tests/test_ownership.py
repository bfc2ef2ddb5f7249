"""The owner algebra, against statements about single weights."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csmf_tf.masking import ownership

STAGES = 5
owners = hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=4), elements=st.integers(0, STAGES))
stages = st.integers(1, STAGES)


@given(owners, stages)
def test_a_weight_is_active_from_its_own_stage_on_and_trainable_in_it_alone(owner, stage):
    active, trainable = ownership.active(owner, stage), ownership.trainable(owner, stage)
    for index, k in np.ndenumerate(owner):
        assert active[index] == (k in range(1, stage + 1))
        assert trainable[index] == (k == stage)


@given(owners, stages)
def test_active_grows_with_the_stage_by_what_the_stage_trains(owner, stage):
    before = ownership.active(owner, stage - 1) if stage > 1 else np.zeros(owner.shape, bool)
    trainable = ownership.trainable(owner, stage)
    assert not np.any(before & trainable)
    np.testing.assert_array_equal(ownership.active(owner, stage), before | trainable)


@given(owners, st.data())
def test_claim_takes_free_weights_and_nothing_else(owner, data):
    where = data.draw(hnp.arrays(bool, owner.shape)) & (owner == 0)
    kept = owner.copy()
    claimed = ownership.claim(owner, STAGES + 1, where)
    assert claimed.dtype == np.uint8
    np.testing.assert_array_equal(owner, kept)
    for index, k in np.ndenumerate(owner):
        assert claimed[index] == (STAGES + 1 if where[index] else k)
    np.testing.assert_array_equal(
        ownership.claim(owner, STAGES + 1), ownership.claim(owner, STAGES + 1, owner == 0)
    )


@given(owners, stages, st.data())
def test_release_is_undone_by_a_claim_of_the_same_stage(owner, stage, data):
    owner = np.where(owner > stage, 0, owner).astype(np.uint8)
    freed = data.draw(hnp.arrays(bool, owner.shape)) & (owner == stage)
    released = ownership.release(owner, stage, freed)
    np.testing.assert_array_equal(released[~freed], owner[~freed])
    assert not released[freed].any()
    if stage not in released:
        np.testing.assert_array_equal(ownership.claim(released, stage, freed), owner)


@given(owners, st.data())
def test_earliest_is_the_least_owner_that_is_not_free(owner, data):
    axis = data.draw(st.integers(0, owner.ndim - 1))
    found = ownership.earliest(owner, axis)
    assert found.dtype == np.uint8
    for index, k in np.ndenumerate(found):
        along = [int(o) for o in np.moveaxis(owner, axis, -1)[index] if o]
        assert k == min(along, default=0)


@given(owners)
def test_shares_are_counts_over_the_size(owner):
    shares = ownership.shares(owner, STAGES)
    assert shares.dtype == np.float64
    assert shares.tolist() == [np.sum(owner == k) / owner.size for k in range(STAGES + 1)]
    assert shares.sum() == pytest.approx(1)


def test_the_last_possible_stage_can_own_weights():
    owner = ownership.claim(np.array([0, 254], np.uint8), 255)
    assert owner.tolist() == [255, 254]
    assert ownership.active(owner, 255).all()
    assert ownership.earliest(owner, 0) == 254
    assert ownership.earliest(np.array([0, 255], np.uint8), 0) == 255


OWNER = np.array([0, 1, 2], np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ownership.active(OWNER, 0), r"`stage` should be an integer in 1\.\.255\. Received: stage=0"),
        (lambda: ownership.trainable(OWNER, 256), r"in 1\.\.255\. Received: stage=256"),
        (
            lambda: ownership.active(OWNER, 1.5),  # type: ignore[arg-type]
            r"should be an integer .* Received: stage=1\.5",
        ),
        (lambda: ownership.active(OWNER, True), r"should be an integer .* Received: stage=True"),
        (lambda: ownership.claim(OWNER, 2), r"later than every stage .*the last is 2.* Received: stage=2"),
        (
            lambda: ownership.claim(OWNER, 3, OWNER < 2),
            r"`where` should cover free weights .* covers 1 weights",
        ),
        (lambda: ownership.claim(OWNER, 3, OWNER), r"`where` should be a bool mask of shape \(3,\).* uint8"),
        (lambda: ownership.release(OWNER, 2, OWNER == 1), r"weights of stage 2 only.* covers 1 weights"),
        (lambda: ownership.release(OWNER, 2, OWNER[:2] == 1), r"bool mask of shape \(3,\).* shape \(2,\)"),
        (lambda: ownership.shares(OWNER, 1), r"`stages` should be at least 2, .* Received: stages=1"),
        (lambda: ownership.check_owner("owner", [1], (2,)), r"`owner` should have shape \(2,\)\..* \(1,\)"),
        (lambda: ownership.check_owner("owner", [256], (1,)), r"integers in 0\.\.255 .* owner=\[256\]"),
        (lambda: ownership.check_owner("owner", [-1], (1,)), r"integers in 0\.\.255 .* owner=\[-1\]"),
        (lambda: ownership.check_owner("owner", [0.5], (1,)), r"integers in 0\.\.255 .* owner=\[0\.5\]"),
    ],
)
def test_errors_say_what_was_wrong_and_what_was_received(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_neither_owners_nor_pruning_load_tensorflow():
    code = "import sys; from csmf_tf.masking import ownership, pruning; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
