"""A fake SGLang engine: the real HTTP behaviour by version, and how the real one dies.

``python -m sglang_operator.testing.engine --model-path M --port 30000 …`` takes SGLang's own
command line; ``FAKE_SGLANG_VERSION`` says which SGLang it is (``settings`` lists all variables).
Inside an image, ``shim.files()`` makes ``python3 -m sglang.launch_server`` start it.
``process.FakeEngine`` starts one for a test.

Its weights are a checksum: every answer of /generate carries ``fake_weights``, which says whether
they are random, whole, torn or what is left after memory was released: those that its tokens came
from, for a real one's tokens do not change with what is written after them.  The operator never
reads that field.  What is simulated was seen on real engines or read in SGLang's wheels;
``behaviour`` names the source of everything that differs between versions.
"""
