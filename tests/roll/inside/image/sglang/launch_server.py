"""An engine that joins torch's process groups."""

from tests.roll.inside.engine import main

if __name__ == "__main__":
    main()
