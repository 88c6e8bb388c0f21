"""``extraArgs``, judged as SGLang's own parser does."""

import argparse
import contextlib
import io

import pytest

from sglang_operator.engine import extra_arguments, schema

KNOWN = schema.load("0.5.14")
SECRET = "hunter2Xq"
FLAG = "--log-requests-level"


def told(*items: str, exact: bool = True) -> list[str]:
    return [
        f"{problem.field} {problem.message}"
        for problem in extra_arguments.check(items, KNOWN, exact)
    ]


def said_by_sglang(*items: str) -> str:
    """What argparse says with this version's flags; empty: it takes the items."""
    parser = argparse.ArgumentParser(prog="sglang")
    for argument in KNOWN.arguments.values():
        options: dict[str, object] = {"dest": argument.key}
        if argument.action in ("store_true", "store_const"):
            options["action"] = "store_true"
        elif argument.action == "boolean_optional":
            options["action"] = argparse.BooleanOptionalAction
        elif argument.is_list:
            options["nargs"] = "*"
        elif argument.nargs:
            options["nargs"] = argument.nargs
        parser.add_argument(*argument.flags, **options)  # type: ignore[arg-type]
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words):
        try:
            parser.parse_args(["--model-path=/m", *items])
        except SystemExit:
            return words.getvalue() or "it ends"
    return ""


@pytest.mark.parametrize(
    "items",
    [
        (FLAG, "1"),
        (f"{FLAG}=1",),
        (FLAG, "-1"),
        (FLAG, "-"),
        ("--served-model-name", ""),
        ("--served-model-name", "two words"),
        ("--served-model-name", "- x"),
        ("--served-model-name=-x y",),
        ("--served-model-name=a\tb",),
        ("--json-model-override-args", '{"a": "--b c"}'),
        ("--lora-paths", "a=/a", "b=/b", "--enable-metrics"),
        ("--enable-metrics", "--log-requests"),
        ("--cuda-graph-bs", "1", "2", "4"),
    ],
    ids=str,
)
def test_what_sglang_takes_is_taken(items):
    assert said_by_sglang(*items) == ""
    assert told(*items) == []


@pytest.mark.parametrize(
    "items",
    [
        (f"--some-api-key {SECRET}",),
        (f"--some-api-key\t{SECRET}",),
        (f"--some-api-key\n{SECRET}",),
        (f"--some-api-key\u00a0{SECRET}",),
        (f"--some-api-key: {SECRET}",),
        (f"--some-api-key,{SECRET}",),
        (f'--some-api-key"{SECRET}"',),
        (f"--some-api-key {SECRET}=1",),
        (f" --some-api-key={SECRET}",),
        (f"\n--some-api-key={SECRET}",),
        (f'"--some-api-key={SECRET}"',),
        (f"'--some-api-key' '{SECRET}'",),
        (f"-some-api-key={SECRET}",),
        (f"\u2014some-api-key={SECRET}",),
        (f"\u2013\u2013some-api-key={SECRET}",),
        (f"{FLAG}=1", SECRET),
        ("--enable-metrics", SECRET),
        (f"--enable-metrics={SECRET}",),
        ("--no-such", "--", SECRET),
        (SECRET,),
        (f"api-key={SECRET}",),
        (f"api_key: {SECRET}",),
        ("",),
        (" ",),
        ("-v",),
        ("--",),
        ("-",),
        ("---log-requests-level=1",),
        ("--help",),
        ("--hel",),
        ("-h",),
    ],
    ids=repr,
)
def test_what_ends_every_engine_at_its_start_is_refused_and_nothing_of_it_quoted(items):
    assert said_by_sglang(*items)
    problems = told(*items)
    assert problems
    assert SECRET not in str(problems)


@pytest.mark.parametrize(
    "item",
    [
        f"--api-key {SECRET}",
        f"--api-key\n{SECRET}",
        f" --api-key={SECRET}",
        f"-api-key={SECRET}",
        f"'--api-key={SECRET}'",
        f"\u2014api-key {SECRET}",
        f"--api-k {SECRET}",
        f"--admin-api-key: {SECRET}",
        f"--ssl-keyfile-password {SECRET}",
    ],
)
def test_a_key_in_any_spelling_is_told_where_it_belongs(item):
    (problem,) = extra_arguments.check((item,), KNOWN, exact=True)
    assert problem.reason == "ArgumentOwned"
    assert SECRET not in problem.message
    assert "but the operator must know" in problem.message


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (
            (f"{FLAG} 1",),
            f'[0] found "{FLAG}" and more, in one item, expected one flag or one value in each '
            f'item; write "{FLAG}=VALUE", or VALUE as the next item',
        ),
        (
            ("--enable-metrics", "true"),
            "[1] found text that is no flag, expected a flag, or the value of the flag in the item "
            "before; put its flag before it, or remove it",
        ),
        (
            ("--enable-metrics=true",),
            '[0] found "--enable-metrics" with a value, expected the flag alone, which has none; '
            'write "--enable-metrics"',
        ),
        (
            ("-enable-metrics",),
            '[0] found "enable-metrics" after one hyphen, expected two hyphens before the name of '
            'a flag, and nothing before them; write "--enable-metrics"',
        ),
    ],
)
def test_it_is_told_how_to_write_it(items, words):
    assert told(*items) == [f"spec.extraArgs{words}"]


def test_a_version_that_is_only_assumed_says_nothing_of_its_flags():
    assert told("--enable-metrics", "true", "--log-requests=1", exact=False) == []
