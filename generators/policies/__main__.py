"""``python -m generators.policies``: write ``manifests/policies`` anew from the schemas."""

import sys

from generators.checkout import MANIFESTS
from generators.policies import manifest

FOLDER = MANIFESTS / "policies"


def main() -> int:
    """Write every file, and remove those of versions that are no longer known; 0."""
    FOLDER.mkdir(exist_ok=True)
    made = manifest.files()
    for path in FOLDER.glob("*.yaml"):
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (FOLDER / name).write_text(content)
    print(f"{len(made)} files, {sum(map(len, made.values()))} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
