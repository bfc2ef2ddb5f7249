"""Runs `csmf-tf fit` once unbroken, and once killed again and again.

Arguments: CONFIG UNBROKEN BROKEN MOMENT... A moment of SIGKILL is `after:SECONDS`, or `PLACE:N`, in the N-th
checkpoint that the process writes: `data` (the values are written, their index is not), `temp` (only the
folder that TensorFlow writes in first is there), `state` (the checkpoint is whole, `state.json` still names
the last one) or `removal` (of several old files one is gone). Each fit runs in a child, forked before
TensorFlow has run anything; that saves its import.
"""

import os
import pathlib
import signal
import sys
import time

import csmf_tf.cli
import csmf_tf.evaluation.plots
import csmf_tf.evaluation.tables
import csmf_tf.run
from csmf_tf._keras import tf


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(place, count):
    """Makes the process die in the `count`-th checkpoint that it writes."""
    write, written = tf.train.Checkpoint.write, []

    def counted_write(checkpoint, path, *arguments):
        written.append(path)
        now = len(written) == count
        if now and place == "temp":
            folder = pathlib.Path(path + "_temp")
            folder.mkdir()
            (folder / "part-00000-of-00001.data-00000-of-00001.tempstate").write_bytes(b"half")
            die()
        write(checkpoint, path, *arguments)
        if now and place == "data":
            os.remove(path + ".index")
            die()
        return path

    def dying(method, chosen):
        def call(path, *arguments):
            if len(written) >= count and chosen(path):
                if place == "removal":
                    method(path, *arguments)
                die()
            return method(path, *arguments)

        return call

    tf.train.Checkpoint.write = counted_write
    if place == "state":
        pathlib.Path.replace = dying(pathlib.Path.replace, lambda path: path.name == "state.tmp")
    if place == "removal":
        pathlib.Path.unlink = dying(pathlib.Path.unlink, lambda path: path.parent.name == "checkpoints")


def fit(config, run, moment=None):
    """The exit code of a child that fits, negative when it was killed."""
    place, _, value = (moment or "").partition(":")
    pid = os.fork()
    if not pid:
        if place not in ("", "after"):
            die_in(place, int(value))
        os._exit(csmf_tf.cli.main(["fit", config, "--out", run, "--quiet"]))
    if place == "after":
        time.sleep(float(value))
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    config, unbroken, broken, *moments = sys.argv[1:]
    print("unbroken:", fit(config, unbroken))
    print("broken:", *[fit(config, broken, moment) for moment in [*moments, None]])
