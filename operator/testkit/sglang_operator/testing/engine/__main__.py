"""``python -m sglang_operator.testing.engine``: SGLang's command line, a fake engine behind it."""

import asyncio
import sys

from sglang_operator.engine import schema, versions
from sglang_operator.testing.engine import (
    behaviour,
    commandline,
    failures,
    log,
    nodes,
    server,
    settings,
    weights,
)


def main() -> None:
    """Run one engine until its end."""
    try:
        chosen = settings.read()
        version = versions.parse(chosen.version)
    except ValueError as error:
        sys.exit(str(error))
    acts = behaviour.of(version)
    args = commandline.parse(acts, str(schema.nearest(version).version), sys.argv[1:])
    commandline.log_arguments(args)
    if chosen.models == "strict" and not weights.config(args.model_path):
        failures.model_not_found(args.model_path)
    failures.check(args, chosen)
    if args.node_rank:
        asyncio.run(nodes.follow(args, acts, chosen))
    asyncio.run(server.Engine(args, acts, chosen).run())


if __name__ == "__main__":
    # In the log only, as SGLang says it.
    log.raw("UserWarning: this is a fake engine, which simulates SGLang for tests")
    main()
