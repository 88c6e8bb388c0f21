"""SGLang in the image of a trainer: what ROLL packs weights with that it hands over on a GPU."""

__version__ = "0.5.7"
