"""The command that completes the others in a shell."""

from csmf_tf.cli.output import Answer

_FILES = ("CONFIG.yaml", "FILE", "FILE.json", "LOG", "PATH", "RUN_A", "RUN_B")
_FOLDERS = ("DIR", "RUN")


def register(command):
    """Adds the command of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "completion",
        _completion,
        "print a script that completes csmf-tf in a shell",
        "bash > ~/.local/share/bash-completion/completions/csmf-tf",
        "zsh > ~/.zfunc/_csmf-tf     # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc",
        "tcsh > ~/.csmf-tf.tcsh      # with `source ~/.csmf-tf.tcsh` in ~/.tcshrc",
        json=False,
    )
    sub.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell; then open a new one")


def _completion(args):
    import argparse

    import shtab

    from csmf_tf.cli import make_parser
    from csmf_tf.cli.data import SETS

    parser = make_parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    for action in (action for sub in commands.choices.values() for action in sub._actions):
        if action.metavar in _FILES:
            action.complete = shtab.FILE
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.metavar == "SET":
            action.choices = SETS
    return Answer(None, shtab.complete(parser, args.shell))
