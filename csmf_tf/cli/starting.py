"""Commands to begin with: whether the installation works, and all of csmf_tf once."""

import sys

from csmf_tf.cli.output import Answer


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    command("doctor", _doctor, "check the installation, and say what mends it", "", "--json doctor.json")
    sub = command(
        "demo",
        _demo,
        "run everything once on a small log",
        "--out build/demo",
        "--data events.csv.gz --out build/mine",
        goes_on=True,
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for all that the demo writes")
    sub.add_argument(
        "--data",
        metavar="PATH",
        help="a log with columns user_id, item_id, behavior (view, cart, buy) and perhaps timestamp; "
        "default: a simulated one",
    )


def _doctor(args):
    from csmf_tf.doctor import examine, to_dict, to_text

    if sys.stderr.isatty() and not args.quiet:
        print("csmf-tf: note: TensorFlow and ScaNN are tried, which takes some seconds", file=sys.stderr)
    checks = examine()
    return Answer(to_dict(checks), to_text(checks), int(any(check.level == "problem" for check in checks)))


def _demo(args):
    from csmf_tf.demo import demo

    return Answer(demo(args.out, args.data), "")
