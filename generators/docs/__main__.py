"""``python -m generators.docs``: write the pages and the CLI's picture of the definition anew."""

import sys

from generators.docs import generated


def main() -> int:
    """Write every file; 0."""
    for path, content in generated.files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
