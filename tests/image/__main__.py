"""``python -m tests.image``: write the image's hashed requirements anew."""

import sys

from tests.image import requirements


def main() -> int:
    """Write both files; 0."""
    for path, content in requirements.files().items():
        path.write_text(content)
        print(f"{path.name}: {len(requirements.pins(content))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
