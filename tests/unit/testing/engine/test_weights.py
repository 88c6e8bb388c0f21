from sglang_operator.testing.engine import weights
from sglang_operator.testing.engine.weights import Weights

NAMES = weights.names(2)


def dummy() -> Weights:
    return Weights(NAMES, dummy=True, source="/models/m")


def test_dummy_weights_are_random_and_the_same_on_every_engine():
    assert dummy().state() == weights.RANDOM
    assert dummy().checksum() == dummy().checksum()


def test_weights_from_a_model_are_whole():
    loaded = Weights(NAMES, dummy=False, source="/models/m")
    assert loaded.state() == weights.WHOLE
    assert loaded.checksum() != dummy().checksum()


def test_weights_are_torn_until_the_last_bucket():
    engine = dummy()
    engine.update(NAMES[:5], "step-1")
    assert engine.state() == weights.TORN
    assert engine.describe()["stamp"] == ""
    engine.update(NAMES[5:], "step-1")
    assert engine.state() == weights.WHOLE
    assert engine.describe()["stamp"] == "step-1"


def test_two_versions_at_once_are_torn():
    engine = dummy()
    engine.update(None, "step-1")
    engine.update(NAMES[:1], "step-2")
    assert engine.state() == weights.TORN


def test_the_same_content_gives_the_same_checksum_in_any_order():
    one, other = dummy(), dummy()
    one.update(NAMES, "step-1")
    other.update(None, "step-0")
    other.update(NAMES[3:], "step-1")
    other.update(NAMES[:3], "step-1")
    assert one.checksum() == other.checksum()


def test_an_update_changes_the_checksums_of_its_tensors_only():
    engine = dummy()
    before = engine.checksums()
    engine.update([NAMES[1]], "step-1")
    after = engine.checksums()
    assert [name for name in NAMES if before[name] != after[name]] == [NAMES[1]]


def test_lost_weights_are_garbage_and_differ_between_engines():
    one, other = dummy(), dummy()
    one.lose()
    other.lose()
    assert one.state() == weights.GARBAGE
    assert one.checksum() != other.checksum()


def test_a_bucket_survives_its_serialisation():
    assert weights.opened(weights.bucket(["a", "b"], "step-1")) == (["a", "b"], "step-1")
    assert weights.opened(weights.bucket(None, "step-1")) == (None, "step-1")


def test_what_is_no_bucket_of_ours_stands_for_all_tensors():
    names, stamp = weights.opened("gASVlAAAAAAAAAA=")
    assert names is None
    assert stamp == weights.opened("gASVlAAAAAAAAAA=")[1] != weights.opened("AAAA")[1]
