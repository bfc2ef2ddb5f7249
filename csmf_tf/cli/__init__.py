"""The `csmf-tf` command."""

import argparse
import os
import sys
from collections.abc import Sequence

import csmf_tf
from csmf_tf.cli import checking, data, measuring, serving, training


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments without the program's name; by default those of the process.

    Returns:
        The exit code: what the command returns, by default 0, or 2 when the input was at fault (the reason is
        on stderr).
    """
    # TensorFlow reports a missing GPU as an error; its Python errors come as exceptions all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except BrokenPipeError:
        # The reader of our output has gone, say `head`: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"csmf-tf: error: {_text(error)}", file=sys.stderr)
        return 2
    return 0


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csmf-tf",
        description="Multi-objective retrieval: one model, one index, objectives weighed per request.",
    )
    parser.add_argument("--version", action="version", version=f"csmf-tf {csmf_tf.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, about, example):
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"example: csmf-tf {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=run)
        return sub

    for module in (data, checking, training, measuring, serving):
        module.register(command)
    return parser
