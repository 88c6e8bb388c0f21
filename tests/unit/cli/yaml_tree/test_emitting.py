"""What is written reads back as what it was."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_operator.cli.yaml_tree import emitting, nodes, reading
from sglang_operator.cli.yaml_tree.nodes import Mark

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["yes", "1e-6", "0x1", "1:30", "2020-01-01", "~", "a: b", "- a", "#", "<<", "y", "=", "a #b"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=4), max_leaves=12
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_every_value_reads_back(value):
    node = nodes.of(value, Mark("f", 1, 1))
    text = "\n".join([*emitting.lines(node, lambda _: "f:1"), ""]) if value else "{}\n"
    assert yaml.safe_load(text) == value
    (document,) = reading.load(text, "f").documents
    assert nodes.plain(document) == value
