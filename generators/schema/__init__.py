"""What each SGLang version accepts, read out of its own wheel; not part of what is shipped.

``python -m generators.schema 0.5.24`` (``make schema VERSION=0.5.24``) writes the schema that the
operator renders by; the proof of the rendering parses by the same wheel.
"""
