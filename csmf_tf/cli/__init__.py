"""The `csmf-tf` command."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

import csmf_tf
from csmf_tf.cli import checking, completion, data, measuring, serving, starting, training
from csmf_tf.cli.output import error_text, is_of_input, named_json, show
from csmf_tf.progress import shown

OF_INPUT, UNEXPECTED, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
"""Exit codes: as of argparse, of sysexits.h for software that fails, of shells for SIGINT and SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments without the program's name; by default those of the process.

    Returns:
        The exit code: that of the command's answer, by default 0; 2 when the input was at fault and 70 when
        something unexpected happened (the reason is on stderr); 130 when it was interrupted, and 141 when
        it was not done and nobody reads what it prints any more.
    """
    # TensorFlow reports a missing GPU as an error; its Python errors come as exceptions all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args = make_parser().parse_args(named_json(sys.argv[1:] if argv is None else argv))
    try:
        # Lines about what is going on are no part of the document.
        with redirect_stdout(sys.stderr) if args.json == "-" else nullcontext(), shown(not args.quiet):
            answer = args.run(args)
        return _shown(answer, args.json)
    except BrokenPipeError:
        _silence()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        if args.debug:
            raise
        print(
            f"\ncsmf-tf: interrupted{'; the same command goes on' if args.goes_on else ''}", file=sys.stderr
        )
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        print(f"csmf-tf: error: {error_text(error)}", file=sys.stderr)
        return OF_INPUT if is_of_input(error) else UNEXPECTED


def _shown(answer, target):
    """Shows an answer, if somebody reads it, and gives its exit code."""
    try:
        show(answer, target)
    except BrokenPipeError:
        _silence()
    return answer.code


def _silence():
    # The reader of our output has gone, say `head`: nothing is left to say, not even at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, in the order of use."""
    parser = argparse.ArgumentParser(
        prog="csmf-tf",
        description="Multi-objective retrieval: one model, one index, objectives weighed per request.",
        epilog="csmf-tf COMMAND --help shows examples. Docs: docs/cli.md of https://github.com/csmf-tf/csmf_tf",
    )
    parser.add_argument("--version", action="version", version=f"csmf-tf {csmf_tf.__version__}")
    debug = "show the traceback of an error; before or after COMMAND"
    parser.add_argument("--debug", action="store_true", help=debug)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands, in the order of use")

    def command(name, run, about, *examples, json=True, goes_on=False):
        lines = [f"  csmf-tf {name} {example}".rstrip() for example in examples]
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog="\n".join(["examples:", *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if json:
            sub.add_argument(
                "--json",
                nargs="?",
                const="-",
                metavar="FILE.json",
                help="write JSON too, in folders that are made if missing; without a file, or as -, JSON "
                "alone and on standard output; a file of another ending as --json=FILE",
            )
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
        sub.set_defaults(run=run, goes_on=goes_on, **({} if json else {"json": None}))
        return sub

    for module in (starting, data, checking, training, measuring, serving, completion):
        module.register(command)
    return parser
