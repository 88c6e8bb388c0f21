"""The proof of the rendering: SGLang's own parser reads back what was meant.

``oracle`` says what ROLL would have handed to SGLang, ``cases`` makes configurations, ``judge``
renders one, lets the version's own parser read it, and compares.  None of them reads our schemas.
``python -m tests.proof`` runs everything and counts; the unit tests run a part of it.
"""
