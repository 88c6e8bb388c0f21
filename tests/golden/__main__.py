"""``python -m tests.golden``: write the golden files anew."""

from tests import golden

for sample in sorted(golden.SAMPLES.glob("*.yaml")):
    golden.path(sample).write_text(golden.text(sample))
