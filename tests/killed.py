"""Runs `csmf-tf fit` in children that are killed with SIGKILL, until one ends: `killed.py CONFIG RUN MOMENT...`.

A moment is `after:SECONDS`, or `PLACE:N`, in the N-th checkpoint that the child writes: `data` (the file with
the values is written, its index is not), `temp` (only the folder that TensorFlow writes in first is there),
`state` (the checkpoint is whole, `state.json` still names the last one) or `removal` (of several old files
one is gone). A last child is left alone. Children are forked before TensorFlow has run anything, which saves
its import.
"""

import os
import pathlib
import shutil
import signal
import sys
import time

import csmf_tf.cli
import csmf_tf.evaluation.report
import csmf_tf.run
from csmf_tf._keras import tf


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(place, count):
    """Makes the process die in its `count`-th checkpoint that goes on with training."""
    write, written = tf.train.Checkpoint.write, []

    def counted_write(checkpoint, path, *arguments):
        written.append(path)
        now = len(written) >= count
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
    pid = os.fork()
    if not pid:
        place, _, value = (moment or "").partition(":")
        if place and place != "after":
            die_in(place, int(value))
        os._exit(csmf_tf.cli.main(["fit", config, "--out", run, "--quiet"]))
    if moment and moment.startswith("after:"):
        time.sleep(float(moment.partition(":")[2]))
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    config, run, *moments = sys.argv[1:]
    shutil.rmtree(run, ignore_errors=True)
    codes = [fit(config, run, moment) for moment in [*moments, None]]
    print("exit codes:", *codes)
