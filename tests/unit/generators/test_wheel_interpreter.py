"""How much of a wheel is read."""

import io
import zipfile
from collections import Counter

from generators.schema.wheel_interpreter import WheelInterpreter


class Counting(zipfile.ZipFile):
    """A wheel that counts what is unpacked."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__(io.BytesIO(), "w")
        for name, text in files.items():
            self.writestr(name, text)
        self.unpacked: Counter[str] = Counter()

    def read(self, name, pwd=None):
        self.unpacked[str(name)] += 1
        return super().read(name, pwd)


def test_a_module_is_unpacked_once_however_often_it_is_asked_for():
    """The checks of one version ask for a few modules some fifteen thousand times."""
    with Counting({"sglang/__init__.py": "", "sglang/srt.py": "answer = 42\n"}) as wheel:
        world = WheelInterpreter(wheel, "0.0.test")
        for _ in range(3):
            assert world.source("sglang.srt") == "answer = 42\n"
            assert world.source("sglang.nothing") is None
            assert world.get("sglang.srt", "answer") == 42
            assert world.child("sglang", "srt").answer == 42
        assert wheel.unpacked == {"sglang/srt.py": 1}
