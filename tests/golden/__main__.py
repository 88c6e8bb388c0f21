"""``python -m tests.golden``: write the golden files anew."""

from tests import golden
from tests.golden import pictures

for sample in sorted(golden.SAMPLES.glob("*.yaml")):
    golden.path(sample).write_text(golden.text(sample))

for picture, drawn in pictures.pictures().items():
    picture.parent.mkdir(exist_ok=True, parents=True)
    picture.write_text(drawn)
