"""Text of a cluster made fit to be shown: anybody who may write an object may write anything."""


def printable(text: str) -> str:
    """Without what a terminal would act on or XML does not allow."""
    return "".join(char if char.isprintable() else " " for char in text)
