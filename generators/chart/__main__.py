"""``python -m generators.chart``: write what the chart takes from the manifests, and its README."""

import sys

from generators.chart import generated


def main() -> int:
    """Write every generated file, and remove those that are no longer made; 0."""
    made = generated.files()
    for path in generated.found():
        if path not in made:
            path.unlink()
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    print(f"{len(made)} files, {sum(map(len, made.values()))} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
