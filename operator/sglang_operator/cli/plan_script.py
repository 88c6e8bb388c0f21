"""The plan of a launch script of slime."""

from sglang_operator.cli.pipeline.slime import Script
from sglang_operator.cli.plan_engines import Asked, balances, on_cards
from sglang_operator.cli.plan_report import Engines, Report, Whole
from sglang_operator.memory import engine, settings, trainer
from sglang_operator.pool import shared_memory


def report(script: Script, asked: Asked) -> Report:
    """The plan of the engines that a script would start."""
    trains, infers = script.roles()
    engines = Engines(
        name=infers.name,
        model=script.model,
        version=asked.version,
        gpus=script.gpus,
        devices=script.engines(),
    )
    given = settings.of_values(script.settings())
    length = asked.sequence or script.sequence()
    resident = trainer.RESIDENT_GIB if script.colocated else 0.0
    shm = shared_memory.gib(script.gpus) * engine.GIB
    pools = [*on_cards(engines, infers, given, length, resident, asked, shm)]
    whole = Whole(
        roles=[trains, infers],
        pools=pools,
        trainings=[*script.training()],
        cards=asked.cards,
        per_node=script.number("actor_num_gpus_per_node", 8),
        balances=[*balances(pools, script.step())],
    )
    return Report(pools=pools, wholes=[whole])
